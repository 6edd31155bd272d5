//! Steps become calls, and nothing else.

use super::plan::{Step, View};
use super::verdict::{Nonce, Verdict, judge};
use crate::controllers::context::Context;
use crate::controllers::fleet::FleetHost;
use crate::controllers::ledger::Holding;
use crate::libvirt::{DomainSpec, HostError, RuleSet};

/// What became of the steps.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    /// The canary was made or started anew.
    pub made: bool,
    /// Filters were put back.
    pub refreshed: bool,
    /// What the attacks showed.
    pub outcome: Option<Outcome>,
    /// What the host said to the step that failed; those after it were not done.
    pub error: Option<HostError>,
}

/// What an attempt to attack came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The canary's agent doesn't answer.
    NoAnswer,
    /// It answered.
    Judged(Verdict),
}

/// Does the steps in order.
pub async fn act(context: &Context, host: &FleetHost, seen: &View, steps: &[Step]) -> Deeds {
    let sightings = context.fleet.sightings();
    // While a canary is being made, filters that nothing uses yet must stay.
    let _making = host.making.read().await;
    let mut deeds = Deeds::default();
    // From here on its networks are taken, whatever becomes of its host's object.
    let begun = seen.recipe.as_ref().ok().filter(|_| steps.contains(&Step::Start));
    if let Some(canary) = begun {
        sightings.begins(&host.name, Holding::of_canary(canary));
    }
    for step in steps {
        if let Err(error) = step_on(host, seen, step, &mut deeds).await {
            deeds.error = Some(error);
            break;
        }
    }
    if let Some(canary) = begun {
        sightings.ends(&host.name, &canary.uuid.to_string(), context.clock.now());
    }
    if steps.iter().any(|step| !matches!(step, Step::Attack | Step::RefreshFilters)) {
        host.refresh();
    }
    deeds
}

async fn step_on(host: &FleetHost, seen: &View, step: &Step, deeds: &mut Deeds) -> Result<(), HostError> {
    let port = &host.host;
    match step {
        Step::EnsureFilter => port.ensure_filter(RuleSet::Machine).await,
        Step::Define => port.define(recipe(seen)?).await,
        Step::Start => {
            deeds.made = true;
            port.start(seen.uuid).await
        }
        Step::Destroy => port.destroy(seen.uuid).await,
        Step::Undefine => port.undefine(seen.uuid).await,
        Step::RemoveStray(uuid) => {
            port.destroy(*uuid).await?;
            port.undefine(*uuid).await
        }
        Step::RefreshFilters => {
            port.refresh_filters().await?;
            deeds.refreshed = true;
            Ok(())
        }
        Step::Attack => {
            let Some(stage) = seen.stage else { return Ok(()) };
            let nonce = Nonce::random();
            let answer = port.run_in_guest(seen.uuid, &stage.attack(nonce)).await?;
            deeds.outcome = Some(answer.map_or(Outcome::NoAnswer, |answer| Outcome::Judged(judge(&answer, nonce))));
            Ok(())
        }
    }
}

fn recipe(seen: &View) -> Result<&DomainSpec, HostError> {
    let refused = |message: &str| HostError::Refused { operation: "define", message: message.to_owned() };
    seen.recipe.as_ref().map_err(|obstacle| refused(&obstacle.message))
}
