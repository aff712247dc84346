//! Faults that Kubernetes had, by their numbers: each is tried here against this server, or in the test that its comment names.
//!
//! `paths`: what reaches another's objects by an odd path. `bodies`: what costs time or memory. `floods`: what costs connections, streams or
//! series of metrics. `slow`: what costs connections and memory by doing nothing. `rights`: what gives someone more than he has. `leaks`: what shows secrets. Streams to kubelets are in `kubelet`
//! (CVE-2018-1002105, 2018-1002102, 2020-8559, 2020-8562, 2022-3294), aggregated servers in `aggregation` (CVE-2022-3172, 2018-1002105).

mod bodies;
mod floods;
mod leaks;
mod paths;
mod rights;
mod slow;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::{Client, Cluster};

/// How long a state that a test waits for may take to come, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a single attack may cost of a processor, in a build without optimisation. The attacks here took minutes, or time without end.
const COST_MAX: Duration = Duration::from_secs(30);

/// Fails if more time than that has passed since `begun`.
#[track_caller]
fn in_time(begun: Instant, what: &str) {
    let took = begun.elapsed();
    assert!(took < PATIENCE, "{what} took {took:?}");
}

/// Processor time of this process so far, the server in it. What else the machine does is not counted.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc/self/stat");
    // After the name, which ends with a parenthesis: the 12th and 13th fields are user and system time, in hundredths of a second.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Fails if more has been worked since `begun`, which [`cpu_time`] gave.
#[track_caller]
fn cheap(begun: Duration, what: &str) {
    let cost = cpu_time() - begun;
    assert!(cost < COST_MAX, "{what} cost {cost:?}");
}

/// Resident memory of this process, the server in it, in bytes.
fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc/self/statm");
    let pages: i64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("resident pages");
    pages * 4096
}

/// A user whom a role in `namespace` allows `verbs` on `resources` of `group`. Returns once the server knows.
async fn user_with(cluster: &Cluster, name: &str, namespace: &str, group: &str, resources: &[&str], verbs: &[&str]) -> Client {
    let admin = cluster.admin();
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let role = json!({"metadata": {"name": name}, "rules": [{"apiGroups": [group], "resources": resources, "verbs": verbs}]});
    admin.post(&format!("{rbac}/roles"), &role).await.expect(201);
    bind(cluster, name, namespace, "Role", name).await;
    let user = cluster.as_user(knarr_apiserver::User::authenticated(name, Vec::<String>::new()));
    let review =
        json!({"spec": {"resourceAttributes": {"group": group, "resource": resources[0], "verb": verbs[0], "namespace": namespace}}});
    loop {
        let answer = user.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await.expect(201);
        if answer["status"]["allowed"] == true {
            return user;
        }
        tokio::task::yield_now().await;
    }
}

async fn bind(cluster: &Cluster, user: &str, namespace: &str, kind: &str, role: &str) {
    let binding = json!({
        "metadata": {"name": format!("{user}-{role}")},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"},
    });
    cluster.admin().post(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"), &binding).await.expect(201);
}
