//! Audit: the events that are written, as a program that reads the log or takes the webhook sees them.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use knarr_apiserver::{AuditSettings, LogSettings, User};
use knarr_store::Options;
use serde_json::{Value, json};

use crate::kit::{CONFIG_MAPS, Client, Cluster, PODS, pod, text};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// A cluster that records by `policy`, or by the default.
async fn start(policy: Option<&str>) -> Cluster {
    let dir = tempfile::tempdir().expect("a directory");
    let log = LogSettings { path: dir.path().join("audit.log"), megabytes_max: 100, backups_max: 1, days_max: 1 };
    let policy_file = policy.map(|policy| {
        let path = dir.path().join("policy.yaml");
        fs::write(&path, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{policy}")).expect("a file");
        path
    });
    let audit = AuditSettings { policy_file, log: Some(log), webhook_config_file: None };
    Cluster::start_as(dir, Options::default(), |config| config.audit = audit).await
}

/// The events of requests with this audit id, as soon as there are `count`.
async fn events(cluster: &Cluster, id: &str, count: usize) -> Vec<Value> {
    let path = cluster.dir.path().join("audit.log");
    let read = async {
        loop {
            let found = parse(&path, id);
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap_or_else(|_| panic!("{count} events of {id}: {:?}", parse(&path, id)))
}

fn parse(path: &Path, id: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line may be on its way.
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["auditID"] == id).collect()
}

fn id(number: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{number:02x}")
}

async fn ask(client: &Client, method: &str, path: &str, audit_id: &str, body: &Value) -> u16 {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("audit-id", audit_id), ("content-type", "application/json"), ("user-agent", "tester/1.0")];
    let answer = client.ask(method, path, &headers, body).await;
    assert_eq!(answer.header("audit-id"), audit_id);
    answer.code.as_u16()
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| text(&event["stage"])).collect()
}

#[tokio::test]
async fn without_a_policy_who_did_what_is_recorded_and_no_body() {
    let cluster = start(None).await;
    let admin = cluster.admin();
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "not for the log"}});
    assert_eq!(ask(&admin, "POST", CONFIG_MAPS, &id(1), &body).await, 201);
    let mut events = events(&cluster, &id(1), 1).await;
    assert_eq!(events.len(), 1);
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        let time = events[0].as_object_mut().unwrap().remove(time).unwrap();
        let text = text(&time);
        assert!(text.len() == "2026-01-01T00:00:00.000000Z".len() && text.ends_with('Z'), "a MicroTime: {text}");
    }
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": id(1), "stage": "ResponseComplete",
        "requestURI": CONFIG_MAPS, "verb": "create",
        "user": {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]},
        "sourceIPs": ["127.0.0.1"], "userAgent": "tester/1.0",
        "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 201},
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    });
    assert_eq!(events[0], expected);
    let log = fs::read_to_string(cluster.dir.path().join("audit.log")).unwrap();
    assert!(!log.contains("not for the log"));
    // What a component reads is its daily work and says nothing.
    let scheduler = cluster.as_user(User::authenticated("system:kube-scheduler", Vec::<String>::new()));
    ask(&scheduler, "GET", PODS, &id(2), &Value::Null).await;
    ask(&admin, "GET", PODS, &id(3), &Value::Null).await;
    self::events(&cluster, &id(3), 1).await;
    assert_eq!(parse(&cluster.dir.path().join("audit.log"), &id(2)), Vec::<Value>::new());
}

#[tokio::test]
async fn bodies_are_recorded_as_the_policy_says_and_those_of_secrets_never() {
    let cluster = start(Some("omitManagedFields: true\nrules: [{level: RequestResponse}]\n")).await;
    let admin = cluster.admin();
    assert_eq!(ask(&admin, "POST", CONFIG_MAPS, &id(1), &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await, 201);
    let create = events(&cluster, &id(1), 2).await;
    assert_eq!(stages(&create), ["RequestReceived", "ResponseComplete"]);
    assert_eq!(create[0].get("requestObject"), None);
    assert_eq!(create[1]["requestObject"]["data"], json!({"k": "v"}));
    let object = &create[1]["responseObject"];
    assert_eq!((&object["kind"], &object["data"]["k"]), (&json!("ConfigMap"), &json!("v")));
    assert!(object["metadata"]["uid"].is_string() && object["metadata"].get("managedFields").is_none(), "{object}");
    // Protobuf and lists are recorded in JSON too.
    let headers = [("audit-id", id(2)), ("accept", "application/vnd.kubernetes.protobuf".to_owned())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    admin.ask("GET", CONFIG_MAPS, &headers, "").await;
    let list = &events(&cluster, &id(2), 2).await[1]["responseObject"];
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("ConfigMapList"), &json!("a")), "{list}");
    let patch = json!({"data": {"k": "w"}});
    let headers = [("audit-id", id(3)), ("content-type", "application/merge-patch+json".to_owned())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    admin.ask("PATCH", &format!("{CONFIG_MAPS}/a"), &headers, patch.to_string()).await;
    let patched = &events(&cluster, &id(3), 2).await[1];
    assert_eq!((&patched["requestObject"], &patched["responseObject"]["data"]["k"]), (&patch, &json!("w")));

    let secret = json!({"metadata": {"name": "s"}, "data": {"k": "dGhlIHNlY3JldA=="}});
    assert_eq!(ask(&admin, "POST", SECRETS, &id(4), &secret).await, 201);
    assert_eq!(ask(&admin, "GET", SECRETS, &id(5), &Value::Null).await, 200);
    for number in [4, 5] {
        let events = events(&cluster, &id(number), 2).await;
        assert!(events.iter().all(|event| event["level"] == "Metadata"), "{events:?}");
    }
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    assert_eq!(ask(&admin, "POST", token, &id(6), &json!({"spec": {}})).await, 201);
    events(&cluster, &id(6), 2).await;
    let log = fs::read_to_string(cluster.dir.path().join("audit.log")).unwrap();
    assert!(!log.contains("dGhlIHNlY3JldA==") && !log.contains("eyJhbGciOi"), "neither secret nor token");
}

#[tokio::test]
async fn a_watch_is_received_started_and_complete_when_it_ends() {
    let cluster = start(Some("rules: [{level: Request, verbs: [watch]}]\n")).await;
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=true")).header("audit-id", id(1)).body(Full::<Bytes>::default()).unwrap();
    let response = cluster.admin().send(request).await;
    assert_eq!(stages(&events(&cluster, &id(1), 2).await), ["RequestReceived", "ResponseStarted"]);
    drop(response);
    let events = events(&cluster, &id(1), 3).await;
    assert_eq!((text(&events[2]["stage"]), &events[2]["responseStatus"]["code"]), ("ResponseComplete", &json!(200)));
}

#[tokio::test]
async fn refusals_and_those_who_act_as_others_are_recorded_with_the_reason() {
    let cluster = start(Some("omitStages: [RequestReceived]\nrules: [{level: Metadata}]\n")).await;
    let ann = cluster.as_user(User::authenticated("ann", ["staff"]));
    assert_eq!(ask(&ann, "DELETE", &format!("{PODS}/a"), &id(1), &Value::Null).await, 403);
    let event = &events(&cluster, &id(1), 1).await[0];
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    let status = &event["responseStatus"];
    assert_eq!((&status["status"], &status["reason"], &status["code"]), (&json!("Failure"), &json!("Forbidden"), &json!(403)), "{status}");
    assert!(text(&status["message"]).contains("cannot delete resource \"pods\""), "{status}");
    assert_eq!(status["details"], json!({"name": "a", "kind": "pods"}));

    // Over TLS, with a certificate, as someone else.
    let address = cluster.server.addresses()[0];
    let kube = cluster.kube().await;
    let request = http::Request::post(PODS)
        .header("audit-id", id(2))
        .header("impersonate-user", "bob")
        .header("x-forwarded-for", "192.0.2.1, 192.0.2.2")
        .header("content-type", "application/json")
        .body(pod("a").to_string().into_bytes())
        .unwrap();
    kube.request::<Value>(request).await.expect_err("bob may nothing");
    let event = &events(&cluster, &id(2), 1).await[0];
    assert_eq!(event["impersonatedUser"], json!({"username": "bob", "groups": ["system:authenticated"]}));
    assert_eq!(event["user"]["username"], "kubernetes-admin");
    assert_eq!(event["sourceIPs"], json!(["192.0.2.1", "192.0.2.2", address.ip().to_string()]));
    assert!(text(&event["annotations"]["authorization.k8s.io/reason"]).is_empty());

    // Who is not let in at all.
    let request = http::Request::get(PODS).header("audit-id", id(3)).header("authorization", "Bearer wrong").body(Vec::new()).unwrap();
    kube.request::<Value>(request).await.ok();
}

#[tokio::test]
async fn who_does_not_wait_for_the_answer_is_recorded_too() {
    let cluster = start(None).await;
    let body = json!({"metadata": {"name": "a"}}).to_string();
    let request = http::Request::post(CONFIG_MAPS).header("audit-id", id(1)).header("content-type", "application/json");
    let admin = cluster.admin();
    let mut asked = Box::pin(admin.send(request.body(Full::from(body)).unwrap()));
    assert!(futures::poll!(&mut asked).is_pending(), "the write is on its way to the disk");
    drop(asked);
    let events = events(&cluster, &id(1), 1).await;
    assert_eq!(stages(&events), ["ResponseComplete"]);
    assert_eq!(events[0]["responseStatus"]["message"], "Connection closed early");
}

#[tokio::test]
async fn a_server_that_stops_writes_what_waits() {
    let cluster = start(None).await;
    for number in 0..100 {
        ask(&cluster.admin(), "GET", &format!("{CONFIG_MAPS}/c"), &id(number), &Value::Null).await;
    }
    let dir = cluster.stop().await;
    let text = fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert_eq!(text.lines().count(), 100);

    let mut receiver = receiver::start().await;
    let path = dir.path().join("audit.kubeconfig");
    fs::write(&path, &receiver.kubeconfig).unwrap();
    let audit = AuditSettings { webhook_config_file: Some(path), ..AuditSettings::default() };
    let cluster = Cluster::start_as(dir, Options::default(), |config| config.audit = audit).await;
    cluster.admin().get(&format!("{CONFIG_MAPS}/c")).await;
    cluster.stop().await;
    let list = receiver.lists.try_recv().expect("the event that waited for others has been sent");
    assert_eq!(list["items"][0]["objectRef"]["name"], "c");
}

#[tokio::test]
async fn a_full_disk_stops_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let log = LogSettings { path: "/dev/full".into(), megabytes_max: 100, backups_max: 1, days_max: 1 };
    let audit = AuditSettings { log: Some(log), ..AuditSettings::default() };
    let cluster = Cluster::start_as(dir, Options::default(), |config| config.audit = audit).await;
    let admin = cluster.admin();
    for number in 0..20 {
        admin.config_map(&format!("c{number}"), json!({})).await;
    }
    let lost = async {
        loop {
            let page = String::from_utf8_lossy(&admin.get("/metrics").await.bytes).into_owned();
            if page.lines().any(|line| line == "apiserver_audit_error_total 20") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), lost).await.expect("the lost events are counted");
}

#[tokio::test]
async fn a_wrong_policy_is_named_and_the_server_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml");
    fs::write(&path, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Everything}]\n").unwrap();
    let store = Arc::new(knarr_store::Embedded::open(&dir.path().join("store"), Default::default()).unwrap());
    let mut config = crate::kit::config(&dir);
    config.audit.policy_file = Some(path.clone());
    let error = knarr_apiserver::ApiServer::start(config, store).await.err().expect("it does not start");
    let source = std::error::Error::source(&error).expect("why").to_string();
    assert!(source.contains(&*path.to_string_lossy()) && source.contains("Everything"), "{source}");
}

/// An HTTPS server that keeps what is posted to it.
mod receiver {
    use super::*;

    pub(super) struct Receiver {
        pub(super) lists: tokio::sync::mpsc::Receiver<Value>,
        pub(super) kubeconfig: String,
    }

    pub(super) async fn start() -> Receiver {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let tls = tls.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).expect("a TLS server");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (sender, lists) = tokio::sync::mpsc::channel(16);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serve = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let sender = sender.clone();
                        async move {
                            let body = request.into_body().collect().await?.to_bytes();
                            sender.send(serde_json::from_slice(&body).expect("JSON")).await.expect("the test reads");
                            Ok::<_, hyper::Error>(http::Response::new(Full::<Bytes>::default()))
                        }
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(io, serve).await);
                });
            }
        });
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let ca = STANDARD.encode(certified.cert.pem());
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("https://{address}/audit"), "certificate-authority-data": ca}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        Receiver { lists, kubeconfig: kubeconfig.to_string() }
    }
}

#[tokio::test]
async fn a_webhook_gets_events_in_batches() {
    let mut receiver = receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.kubeconfig");
    fs::write(&path, &receiver.kubeconfig).unwrap();
    let audit = AuditSettings { webhook_config_file: Some(path), ..AuditSettings::default() };
    let cluster = Cluster::start_as(dir, Options::default(), |config| config.audit = audit).await;
    let admin = cluster.admin();
    // As many as one batch has.
    for number in 0..400 {
        admin.get(&format!("{CONFIG_MAPS}/c{number}")).await;
    }
    let list = tokio::time::timeout(Duration::from_secs(60), receiver.lists.recv()).await.expect("in time").expect("a batch");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 400);
    assert_eq!(items[0]["objectRef"]["name"], "c0");
    assert_eq!(items[399]["responseStatus"]["code"], 404);
}

#[tokio::test]
async fn policies_say_in_the_log_what_they_found() {
    let cluster = start(None).await;
    let admin = cluster.admin();
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]);
    let policy = json!({"metadata": {"name": "sizes"}, "spec": {"matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "true"}, {"expression": "object.data.size() < 2", "message": "too many"}],
        "auditAnnotations": [{"key": "size", "valueExpression": "'has ' + string(object.data.size())"}, {"key": "none", "valueExpression": "null"}]}});
    admin.post(&format!("{group}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "sizes", "validationActions": ["Audit"]}});
    admin.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let body = json!({"metadata": {"name": "two"}, "data": {"a": "1", "b": "2"}});
    assert_eq!(ask(&admin, "POST", CONFIG_MAPS, &id(1), &body).await, 201);
    let noted = events(&cluster, &id(1), 1).await[0]["annotations"].clone();
    assert_eq!((&noted["sizes/size"], noted.get("sizes/none")), (&json!("has 2"), None));
    let failure: Value = serde_json::from_str(text(&noted["validation.policy.admission.k8s.io/validation_failure"])).expect("JSON");
    let expected =
        json!([{"message": "too many", "policy": "sizes", "binding": "b", "expressionIndex": 1, "validationActions": ["Audit"]}]);
    assert_eq!(failure, expected);
    let body = json!({"metadata": {"name": "one"}, "data": {"a": "1"}});
    assert_eq!(ask(&admin, "POST", CONFIG_MAPS, &id(2), &body).await, 201);
    let noted = events(&cluster, &id(2), 1).await[0]["annotations"].clone();
    assert_eq!((&noted["sizes/size"], noted.get("validation.policy.admission.k8s.io/validation_failure")), (&json!("has 1"), None));
}

#[tokio::test]
async fn a_path_that_is_none_is_recorded_too() {
    let cluster = start(Some("omitStages: [RequestReceived]\nrules: [{level: Metadata}]\n")).await;
    assert_eq!(ask(&cluster.admin(), "GET", "/api/v1/namespaces/a%2Fb/pods", &id(1), &Value::Null).await, 400);
    let events = events(&cluster, &id(1), 1).await;
    assert_eq!((text(&events[0]["requestURI"]), &events[0]["responseStatus"]["code"]), ("/api/v1/namespaces/a%2Fb/pods", &json!(400)));
    assert_eq!((text(&events[0]["user"]["username"]), events[0].get("objectRef")), ("kubernetes-admin", None));
}

#[tokio::test]
async fn a_token_is_found_by_its_id_from_its_issue_on() {
    let cluster = start(Some("omitStages: [RequestReceived]\nrules: [{level: Metadata}]\n")).await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}})).await.expect(201);
    assert_eq!(ask(&admin, "POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", &id(1), &json!({})).await, 201);
    let events = events(&cluster, &id(1), 1).await;
    let issued = text(&events[0]["annotations"]["authentication.kubernetes.io/issued-credential-id"]);
    assert!(issued.starts_with("JTI=") && issued.len() == "JTI=".len() + 36, "{events:?}");
}
