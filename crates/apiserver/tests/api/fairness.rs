//! Priority and fairness: what an overloaded server does, and how flow schemas and priority levels say so.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use knarr_apiserver::User;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::kit::{Answer, CONFIG_MAPS, Client, Cluster, PODS, text};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

fn bob() -> User {
    User::authenticated("bob", Vec::<String>::new())
}

fn level(name: &str, response: &Value) -> Value {
    let limited = json!({"nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": response});
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}})
}

/// Everything that bob asks for.
fn schema(name: &str, level: &str) -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "bob"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
    });
    json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": level}, "rules": [rule]}})
}

fn schema_of(answer: &Answer) -> String {
    answer.header("x-kubernetes-pf-flowschema-uid").to_owned()
}

async fn uid(admin: &Client, path: &str) -> String {
    text(&admin.get(path).await.expect(200)["metadata"]["uid"]).to_owned()
}

/// Bob's own level, in force.
async fn limit_bob(cluster: &Cluster, response: &Value) {
    let admin = cluster.admin();
    admin.post(LEVELS, &level("tiny", response)).await.expect(201);
    let created = admin.post(SCHEMAS, &schema("bobs", "tiny")).await.expect(201);
    let uid = text(&created["metadata"]["uid"]).to_owned();
    let bob = cluster.as_user(bob());
    until("bob has his own schema", || async { schema_of(&bob.get(CONFIG_MAPS).await) == uid }).await;
}

/// A creation whose body never ends: it holds its seat for as long as it is kept.
fn endless(cluster: &Cluster) -> tokio::task::JoinHandle<u16> {
    let body = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    let request = Request::post(CONFIG_MAPS).header("content-type", "application/json").body(body).expect("a request");
    let service = cluster.server.service_for(bob());
    tokio::spawn(async move { service.oneshot(request).await.expect("the service never fails").status().as_u16() })
}

/// Bob may write, so that his creations get as far as their bodies.
async fn let_bob_write(cluster: &Cluster) {
    let admin = cluster.admin();
    let group = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let binding = json!({"metadata": {"name": "bob"}, "roleRef": role, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}]});
    admin.post(group, &binding).await.expect(201);
    let bob = cluster.as_user(bob());
    until("bob may", || async { bob.get(PODS).await.code == 200 }).await;
}

#[tokio::test]
async fn every_answer_says_which_schema_and_level_it_was_served_under() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (user, schema, level) in [
        (crate::kit::admin_user(), "exempt", "exempt"),
        (bob(), "global-default", "global-default"),
        (User::node("n1"), "system-nodes", "system"),
        (User::authenticated("system:kube-scheduler", Vec::<String>::new()), "kube-scheduler", "workload-high"),
        (User::service_account("default", "app", "u"), "service-accounts", "workload-low"),
    ] {
        let answer = cluster.as_user(user.clone()).get(PODS).await;
        assert_eq!(schema_of(&answer), uid(&admin, &format!("{SCHEMAS}/{schema}")).await, "{}", user.name);
        assert_eq!(answer.header("x-kubernetes-pf-prioritylevel-uid"), uid(&admin, &format!("{LEVELS}/{level}")).await, "{}", user.name);
    }
}

#[tokio::test]
async fn a_level_that_is_full_refuses_and_all_others_are_served() {
    let cluster = Cluster::start().await;
    let_bob_write(&cluster).await;
    limit_bob(&cluster, &json!({"type": "Reject"})).await;
    // One share of 246 of 600 seats, rounded up.
    let held: Vec<_> = (0..3).map(|_| endless(&cluster)).collect();
    let bob = cluster.as_user(bob());
    until("bob's seats are taken", || async { bob.get(PODS).await.code == 429 }).await;
    let refused = bob.get(PODS).await;
    assert_eq!(refused.header("retry-after"), "1");
    let (reason, message) = refused.refused(429);
    assert_eq!((&*reason, &*message), ("TooManyRequests", "too many requests, please try again later"));
    for user in [crate::kit::admin_user(), User::authenticated("system:kube-controller-manager", Vec::<String>::new())] {
        for _ in 0..50 {
            cluster.as_user(user.clone()).get(PODS).await.expect(200);
        }
    }
    assert_eq!(cluster.as_user(User::authenticated("ann", Vec::<String>::new())).get("/version").await.code, 200);
    // Who hangs up gives his seat back.
    held[0].abort();
    until("one seat is free", || async { bob.get(PODS).await.code == 200 }).await;
}

#[tokio::test]
async fn who_finds_no_seat_waits_in_line_and_a_watch_keeps_none() {
    let cluster = Cluster::start().await;
    let_bob_write(&cluster).await;
    limit_bob(&cluster, &json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}})).await;
    let bob = cluster.as_user(bob());
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(bob.watch(&format!("{CONFIG_MAPS}?watch=true")).await);
    }
    let held: Vec<_> = (0..3).map(|_| endless(&cluster)).collect();
    let metric = |page: Answer, name: &str| {
        let page = String::from_utf8_lossy(&page.bytes).into_owned();
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.rsplit(' ').next().and_then(|value| value.parse::<usize>().ok())
    };
    let admin = cluster.admin();
    let executing = "apiserver_flowcontrol_current_executing_seats{priority_level=\"tiny\"}";
    let waiting = "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"tiny\"}";
    until("three hold their seats", || async { metric(admin.get("/metrics").await, executing) == Some(3) }).await;
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let bob = bob.clone();
            tokio::spawn(async move { bob.get(PODS).await.code.as_u16() })
        })
        .collect();
    until("two wait", || async { metric(admin.get("/metrics").await, waiting) == Some(2) }).await;
    bob.get(PODS).await.refused(429);
    held[0].abort();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_flood_by_one_user_leaves_the_system_and_other_users_served() {
    let cluster = Cluster::start().await;
    let_bob_write(&cluster).await;
    // The ordinary level of users. More than all seats and lines that bob can have.
    let flood: Vec<_> = (0..1_000).map(|_| endless(&cluster)).collect();
    let bob = cluster.as_user(bob());
    until("the flood is turned away", || async { bob.get(PODS).await.code == 429 }).await;
    for user in [User::node("n1"), User::authenticated("system:kube-scheduler", Vec::<String>::new()), crate::kit::admin_user()] {
        let client = cluster.as_user(user);
        let began = std::time::Instant::now();
        for _ in 0..100 {
            assert_eq!(client.get("/api/v1/services").await.code, 200);
        }
        println!("100 requests under the flood took {:?}", began.elapsed());
    }
    drop(flood.into_iter().map(|one| one.abort()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_schema_says_whether_its_level_exists_and_without_it_has_no_part() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let dangling = |schema: Value| {
        let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|condition| condition["type"] == "Dangling").map(|condition| text(&condition["status"]).to_owned())
    };
    admin.post(SCHEMAS, &schema("bobs", "later")).await.expect(201);
    let path = format!("{SCHEMAS}/bobs");
    until("it dangles", || async { dangling(admin.get(&path).await.expect(200)).as_deref() == Some("True") }).await;
    let default = uid(&admin, &format!("{SCHEMAS}/global-default")).await;
    let bob = cluster.as_user(bob());
    assert_eq!(schema_of(&bob.get(PODS).await), default);
    admin.post(LEVELS, &level("later", &json!({"type": "Reject"}))).await.expect(201);
    until("it does not", || async { dangling(admin.get(&path).await.expect(200)).as_deref() == Some("False") }).await;
    let own = uid(&admin, &path).await;
    until("it is in force", || async { schema_of(&bob.get(PODS).await) == own }).await;
    admin.delete(&format!("{LEVELS}/later")).await.expect(200);
    until("and out of it", || async { schema_of(&bob.get(PODS).await) == default }).await;
}

#[tokio::test]
async fn mandatory_objects_come_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for path in [format!("{SCHEMAS}/catch-all"), format!("{LEVELS}/catch-all"), format!("{SCHEMAS}/exempt")] {
        let before = uid(&admin, &path).await;
        admin.delete(&path).await.expect(200);
        until("it is there again", || async {
            let answer = admin.get(&path).await;
            answer.code == 200 && text(&answer.json()["metadata"]["uid"]) != before
        })
        .await;
    }
}
