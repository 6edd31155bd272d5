//! Certificates between the operator and a host: told before they end, replaced while everything runs.

use std::process::Command;
use std::time::{Duration, Instant};

use cascina::api::Hypervisor;
use serde_json::json;

use crate::support::soak::short_or_long;
use crate::support::{Finally, Tenant, TheBox, condition, is_ready, reason, the_box_alone};

const HOST: &str = "worker-1";

/// A Secret is read every half minute, and a certificate that ends soon looked at every minute.
const NOTICED: Duration = Duration::from_secs(150);

impl TheBox {
    /// Signs a certificate in the name of the box's authority, for so many days; key and certificate as PEM.
    fn sign(&self, name: &str, extensions: &str, days: u32) -> (String, String) {
        let pki = self.state.join("pki");
        let script = r#"
            key=$(openssl ecparam -name prime256v1 -genkey -noout)
            openssl req -new -key <(echo "$key") -subj "/CN=$NAME" | openssl x509 -req -CA "$CA/cert.pem" -CAkey "$CA/key.pem" \
                -days "$DAYS" -set_serial "0x$(openssl rand -hex 15)" -extfile <(printf "$EXTENSIONS") 2>/dev/null
            echo "$key""#;
        let mut command = Command::new("bash");
        command.args(["-euc", script]).env("CA", pki.join("ca")).env("NAME", name);
        let output = command.env("DAYS", days.to_string()).env("EXTENSIONS", extensions).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (certificate, key) = text.split_once("-----BEGIN EC PRIVATE KEY").expect("a certificate and a key");
        (format!("-----BEGIN EC PRIVATE KEY{key}"), certificate.to_owned())
    }

    /// Gives the host a certificate and starts its libvirtd anew: it reads the paths in its configuration at no other time.
    fn give_host(&self, key: &str, certificate: &str) {
        let pki = self.state.join("pki").join(HOST);
        std::fs::write(pki.join("serverkey.pem"), key).unwrap();
        std::fs::write(pki.join("servercert.pem"), certificate).unwrap();
        drop(self.try_script("host", &["crash", HOST]));
    }

    /// Gives the operator a certificate.
    fn give_operator(&self, key: &str, certificate: &str) {
        let patch = json!({"stringData": {"tls.key": key, "tls.crt": certificate}}).to_string();
        self.cluster.must("kubectl", &["-n", "cascina-system", "patch", "secret", "libvirt-client", "-p", &patch]);
    }

    /// Has the host looked at now, in the short form, instead of within the minute and a half in which it is by itself: a
    /// spec that changed is compared with its Secret at once.
    fn look_now(&self, reserved: serde_json::Value) {
        if short_or_long(true, false) {
            let patch = json!({"spec": {"reserved": reserved}}).to_string();
            self.cluster.must("kubectl", &["patch", "hypervisor", HOST, "--type=merge", "-p", &patch]);
        }
    }

    /// Waits for a state of the condition, and measures meanwhile the longest time without a sign of life of the host.
    async fn until_told(&self, what: &str, holds: impl Fn(&Hypervisor) -> bool) -> Hypervisor {
        let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let beats = || {
            let labels = [("operation", "survey"), ("host", HOST)];
            let failed = self.metrics().sum("cascina_libvirt_call_errors_total", &labels);
            self.metrics().sum("cascina_libvirt_call_duration_seconds_count", &labels) - failed
        };
        let mut seen = beats();
        loop {
            let host = self.all::<Hypervisor>().get(HOST).await.unwrap();
            let now = beats();
            if now > seen {
                longest = longest.max(last.elapsed());
                (last, seen) = (Instant::now(), now);
            }
            if holds(&host) {
                println!(
                    "{what} after {:.1} s; the longest silence: {:.1} s",
                    begin.elapsed().as_secs_f64(),
                    longest.as_secs_f64()
                );
                assert!(longest < Duration::from_secs(15), "it stayed in touch");
                return host;
            }
            assert!(begin.elapsed() < NOTICED, "{what}: {:?}", condition(&host, "CertificateExpiring"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn goes_on(tenant: &Tenant<'_>) {
    let machine = tenant.machines().get("guest").await.unwrap();
    assert!(is_ready(&machine), "{machine:?}");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn certificates_are_warned_of_and_replaced_while_everything_runs() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("tls").await;
    the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", HOST, &format!("e2e/host={HOST}")]);
    tenant.given_machine("guest", json!({"hypervisorSelector": {"e2e/host": HOST}})).await;
    let operator = the_box.script("operator", &["status"]);
    let pki = the_box.state.join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let [host_key, host_certificate] = ["serverkey.pem", "servercert.pem"].map(|name| read(&format!("{HOST}/{name}")));
    let [our_key, our_certificate] = ["clientkey.pem", "clientcert.pem"].map(|name| read(&format!("operator/{name}")));
    let _restored = Finally(|| {
        the_box.give_operator(&our_key, &our_certificate);
        the_box.give_host(&host_key, &host_certificate);
        the_box.look_now(json!(null));
    });

    let address = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(pki.join(HOST).join("servercert.pem"))
        .output()
        .unwrap();
    let address = String::from_utf8(address.stdout).unwrap();
    let address = address.split("IP Address:").nth(1).unwrap().trim().to_owned();
    let usage = |usage: &str| {
        format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage={usage}\n"
        )
    };
    let (key, certificate) =
        the_box.sign(HOST, &format!("{}subjectAltName=IP:{address}\n", usage("serverAuth,clientAuth")), 10);
    the_box.give_host(&key, &certificate);
    let (key, certificate) = the_box.sign("cascina-operator", &usage("clientAuth"), 20);
    the_box.give_operator(&key, &certificate);
    the_box.look_now(json!({"memory": "1Mi"}));
    let warned = the_box
        .until_told("both certificates were warned of", |host| {
            let (reason, message) = reason(host, "CertificateExpiring");
            reason == "Expiring" && message.contains("the client ends") && message.contains("the host ends")
        })
        .await;
    println!("{}", reason(&warned, "CertificateExpiring").1);
    let left = |which| {
        let end = the_box
            .metrics()
            .sum("cascina_certificate_expiry_timestamp_seconds", &[("hypervisor", HOST), ("which", which)]);
        (end - jiff::Timestamp::now().as_second() as f64) / 86_400.0
    };
    assert!((9.0..11.0).contains(&left("host")) && (19.0..21.0).contains(&left("client")));
    let events = the_box.events("", HOST).await;
    assert!(events.iter().any(|(reason, _)| reason == "CertificateExpiring"), "{events:?}");
    goes_on(&tenant).await;

    the_box.give_operator(&our_key, &our_certificate);
    the_box.give_host(&host_key, &host_certificate);
    the_box.look_now(json!(null));
    the_box
        .until_told("that they were renewed was noticed", |host| reason(host, "CertificateExpiring").0 == "Valid")
        .await;
    goes_on(&tenant).await;
    assert_eq!(the_box.script("operator", &["status"]), operator, "the operator went on");
}
