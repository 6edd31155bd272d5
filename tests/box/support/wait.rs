//! Waiting for what shall come true, and telling all that is known when it doesn't.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TheBox;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl TheBox {
    /// Waits until `look` finds what it looks for and returns it; when `within` is over, fails with what `look` said
    /// last and with the end of the operator's log.
    #[track_caller]
    pub fn eventually<'a, T, F: AsyncFnMut() -> Result<T, String>>(
        &'a self,
        what: &str,
        within: Duration,
        mut look: F,
    ) -> impl Future<Output = T> + use<'a, T, F> {
        let caller = std::panic::Location::caller();
        let what = what.to_owned();
        async move {
            let end = Instant::now() + within;
            loop {
                let missing = match look().await {
                    Ok(found) => return found,
                    Err(missing) => missing,
                };
                if Instant::now() >= end {
                    let log = self.operator_log(1, 25);
                    panic!("{caller}: after {within:?} still waiting for {what}:\n{missing}\n--- the operator:\n{log}");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Waits until an object is as it shall be, and returns it so; when `within` is over, fails with the object, its
    /// events and the end of the operator's log.
    #[track_caller]
    pub fn until<'a, K, F>(
        &'a self,
        api: &Api<K>,
        name: &str,
        what: &str,
        within: Duration,
        holds: F,
    ) -> impl Future<Output = K> + use<'a, K, F>
    where
        F: Fn(&K) -> bool,
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api = api.clone();
        let name = name.to_owned();
        self.eventually(&format!("{} {name}: {what}", K::kind(&())), within, async move || {
            match api.get_opt(&name).await {
                Ok(Some(object)) if holds(&object) => Ok(object),
                Ok(Some(mut object)) => {
                    object.meta_mut().managed_fields = None;
                    let events = self.events(&object.namespace().unwrap_or_default(), &name).await;
                    let events: Vec<_> = events.iter().map(|(reason, note)| format!("{reason}: {note}")).collect();
                    Err(format!("{}--- events:\n{}", serde_yaml::to_string(&object).unwrap(), events.join("\n")))
                }
                Ok(None) => Err("it is not there".into()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// Waits until an object is gone.
    #[track_caller]
    pub fn until_gone<'a, K>(
        &'a self,
        api: &Api<K>,
        name: &str,
        within: Duration,
    ) -> impl Future<Output = ()> + use<'a, K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api = api.clone();
        let name = name.to_owned();
        self.eventually(&format!("{} {name} to be gone", K::kind(&())), within, async move || {
            match api.get_opt(&name).await {
                Ok(None) => Ok(()),
                Ok(Some(object)) => Err(serde_yaml::to_string(&object).unwrap()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// What was told of an object: reason and note of its events, oldest first.
    pub async fn events(&self, namespace: &str, name: &str) -> Vec<(String, String)> {
        use k8s_openapi::api::events::v1::Event;
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let events: Api<Event> = Api::namespaced(self.cluster.client.clone(), namespace);
        let mut events = events.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        events.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name));
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        events.into_iter().map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect()
    }
}

/// A condition of an object of any kind.
pub fn condition(object: &impl Serialize, kind: &str) -> Option<Condition> {
    let object = serde_json::to_value(object).unwrap();
    let conditions: Vec<Condition> = serde_json::from_value(object["status"]["conditions"].clone()).ok()?;
    conditions.into_iter().find(|condition| condition.type_ == kind)
}

/// Whether its condition `Ready` is true, for the spec that it has now.
pub fn is_ready(object: &impl Serialize) -> bool {
    let value = serde_json::to_value(object).unwrap();
    let is_current = value["status"]["observedGeneration"] == value["metadata"]["generation"];
    is_current && condition(object, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Reason and message of one of its conditions.
pub fn reason(object: &impl Serialize, kind: &str) -> (String, String) {
    condition(object, kind).map(|condition| (condition.reason, condition.message)).unwrap_or_default()
}
