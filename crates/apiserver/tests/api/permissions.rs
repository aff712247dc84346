//! Who decides: an AuthorizationConfiguration with a webhook that the test plays.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use knarr_apiserver::{Access, User};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    kit::{CONFIG_MAPS, Client, Cluster, eventually},
    outside::{Outside, write},
};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";

/// RBAC behind a webhook that is asked of the namespace `default` only.
fn configuration(policy: &str) -> Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [
            {"type": "Webhook", "name": "hook", "webhook": {
                "timeout": "10s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": policy,
                "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "webhook.kubeconfig"},
                "matchConditions": [
                    {"expression": "has(request.resourceAttributes)"},
                    {"expression": "request.resourceAttributes.namespace == 'default' && request.user != 'system:apiserver'"},
                ],
            }},
            {"type": "RBAC", "name": "rbac"},
        ],
    })
}

/// Lets wanda read config maps, and keeps everyone from Secrets, whatever the roles say.
fn answers(path: &str, review: &Value) -> Option<Value> {
    assert_eq!((path, &review["kind"], &review["apiVersion"]), ("/may", &json!("SubjectAccessReview"), &json!("authorization.k8s.io/v1")));
    let (user, asked) = (&review["spec"]["user"], &review["spec"]["resourceAttributes"]);
    assert_eq!(asked["namespace"], "default", "the match condition");
    let status = match (user.as_str(), asked["resource"].as_str()) {
        (_, Some("secrets")) => json!({"allowed": false, "denied": true, "reason": "no secrets today"}),
        (Some("wanda"), Some("configmaps")) => json!({"allowed": true}),
        _ => json!({"allowed": false}),
    };
    Some(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}))
}

async fn cluster(webhook: &Outside, policy: &str) -> (Cluster, std::path::PathBuf) {
    webhook.kubeconfig("/may");
    let file = webhook.dir.path().join("authorization.yaml");
    write(&file, &configuration(policy));
    (Cluster::start_with(Access { authorization: Some(file.clone()), ..Access::default() }).await, file)
}

/// bob may read everything by his role.
async fn let_bob_read(cluster: &Cluster) {
    let rule = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]});
    let role = json!({"metadata": {"name": "reader"}, "rules": [rule]});
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": "bob"}, "subjects": [{"kind": "User", "name": "bob", "apiGroup": group}],
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "reader"}});
    let admin = cluster.admin();
    admin.post(&format!("/apis/{group}/v1/clusterroles"), &role).await.expect(201);
    admin.post(&format!("/apis/{group}/v1/clusterrolebindings"), &binding).await.expect(201);
}

#[tokio::test]
async fn a_webhook_allows_denies_or_leaves_it_to_the_roles() {
    let webhook = Outside::start(answers).await;
    let (cluster, file) = cluster(&webhook, "Deny").await;
    let_bob_read(&cluster).await;
    let (bob, wanda) = (cluster.as_user(User::authenticated("bob", [""; 0])), cluster.as_user(User::authenticated("wanda", [""; 0])));
    // Of another namespace it is not asked.
    eventually(async || bob.get("/api/v1/namespaces/kube-system/secrets").await.code == 200).await;
    let before = webhook.asked();
    for _ in 0..3 {
        wanda.get(CONFIG_MAPS).await.expect(200);
        bob.get(CONFIG_MAPS).await.expect(200);
        assert!(bob.get(SECRETS).await.refused(403).1.contains("no secrets today"));
        wanda.get("/api/v1/namespaces/default/pods").await.refused(403);
    }
    assert_eq!(webhook.asked() - before, 4, "each question once");
    cluster.admin().get(SECRETS).await.expect(200);
    let review = json!({"spec": {"user": "bob", "resourceAttributes": {"verb": "list", "resource": "secrets", "namespace": "default"}}});
    let review = cluster.admin().post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.expect(201);
    assert_eq!(review["status"], json!({"allowed": false, "denied": true, "reason": "no secrets today"}));
    let rules = json!({"spec": {"namespace": "default"}});
    let rules = cluster.admin().post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], true, "nobody knows the webhook's rules");
    // Without the webhook the roles decide alone, with the next request after the change was seen; a broken change changes nothing.
    let mut roles = configuration("Deny");
    roles["authorizers"] = json!([]);
    {
        let log = Log::default();
        let _told = log.listen();
        write(&file, &roles);
        eventually(async || log.contains("the old one stays in force")).await;
    }
    assert!(bob.get(SECRETS).await.refused(403).1.contains("no secrets today"));
    roles["authorizers"] = json!([{"type": "RBAC", "name": "rbac"}]);
    write(&file, &roles);
    eventually(async || bob.get(SECRETS).await.code == 200).await;
    wanda.get(CONFIG_MAPS).await.refused(403);
    let asked = json!({"spec": {"namespace": "default"}});
    let rules = bob.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &asked).await.expect(201);
    assert_eq!((&rules["status"]["incomplete"], reads_all(&rules)), (&json!(false), true));
    // Roles that nobody asks give nothing.
    roles["authorizers"] = json!([{"type": "Node", "name": "node"}, {"type": "AlwaysAllow", "name": "all"}]);
    write(&file, &roles);
    eventually(async || wanda.get(CONFIG_MAPS).await.code == 200).await;
    let node = cluster.as_user(User::node("a"));
    for (caller, incomplete) in [(&bob, false), (&node, true)] {
        let rules = caller.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &asked).await.expect(201);
        assert_eq!((&rules["status"]["incomplete"], reads_all(&rules)), (&json!(incomplete), false), "{rules}");
        assert_eq!(rules["status"]["nonResourceRules"], json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]));
    }
}

/// Whether the rules of a review have bob's role.
fn reads_all(review: &Value) -> bool {
    let rules = review["status"]["resourceRules"].as_array().unwrap();
    rules.iter().any(|rule| rule["verbs"] == json!(["get", "list"]) && rule["resources"] == json!(["*"]))
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(move || log.clone()).finish())
    }

    fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(text)
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn review(allowed: bool) -> Value {
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": allowed}})
}

#[tokio::test]
async fn a_remembered_answer_ends_and_some_are_never_remembered() {
    let allows = Arc::new(AtomicBool::new(true));
    let webhook = Outside::start({
        let allows = allows.clone();
        move |_, _| Some(review(allows.load(Ordering::SeqCst)))
    })
    .await;
    webhook.kubeconfig("/may");
    let file = webhook.dir.path().join("authorization.yaml");
    let mut told = configuration("Deny");
    told["authorizers"][0]["webhook"]["authorizedTTL"] = "1s".into();
    told["authorizers"][0]["webhook"]["cacheUnauthorizedRequests"] = false.into();
    write(&file, &told);
    let cluster = Cluster::start_with(Access { authorization: Some(file), ..Access::default() }).await;
    let wanda = cluster.as_user(User::authenticated("wanda", [""; 0]));
    wanda.get(CONFIG_MAPS).await.expect(200);
    allows.store(false, Ordering::SeqCst);
    eventually(async || wanda.get(CONFIG_MAPS).await.code == 403).await;
    let before = webhook.asked();
    for _ in 0..3 {
        wanda.get(CONFIG_MAPS).await.refused(403);
    }
    assert_eq!(webhook.asked() - before, 3, "a refusal is not remembered");
    allows.store(true, Ordering::SeqCst);
    wanda.get(CONFIG_MAPS).await.expect(200);
}

#[tokio::test]
async fn a_webhook_that_is_overloaded_for_a_moment_is_asked_again() {
    let calls = AtomicUsize::new(0);
    let webhook = Outside::start(move |_, _| Some(if calls.fetch_add(1, Ordering::SeqCst) == 0 { json!(500) } else { review(true) })).await;
    let (cluster, _file) = cluster(&webhook, "Deny").await;
    cluster.as_user(User::authenticated("wanda", [""; 0])).get(CONFIG_MAPS).await.expect(200);
    assert_eq!(webhook.asked(), 2);
}

#[tokio::test]
async fn a_webhook_that_fails_denies_or_is_passed_over_as_it_says() {
    for (policy, code) in [("Deny", 403), ("NoOpinion", 200)] {
        let webhook = Outside::start(|_, _| None).await;
        let (cluster, _file) = cluster(&webhook, policy).await;
        let_bob_read(&cluster).await;
        let bob = cluster.as_user(User::authenticated("bob", [""; 0]));
        eventually(async || bob.get("/api/v1/namespaces/kube-system/configmaps").await.code == 200).await;
        let answer = bob.get(CONFIG_MAPS).await;
        assert_eq!(answer.code, code, "{policy}");
        assert!(webhook.asked() > 0);
    }
}

#[tokio::test]
async fn admission_asks_the_webhook_too() {
    let webhook = Outside::start(|_, review| {
        let escalates = review["spec"]["resourceAttributes"]["verb"] == "escalate";
        let allowed = review["spec"]["user"] == "wanda" && (escalates || review["spec"]["resourceAttributes"]["verb"] == "create");
        Some(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": allowed}}))
    })
    .await;
    let (cluster, _file) = cluster(&webhook, "Deny").await;
    let wanda = cluster.as_user(User::authenticated("wanda", [""; 0]));
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    wanda.post(ROLES, &role).await.expect(201);
    // An expression asks several things, of which each answer is needed before the next is known.
    judge(
        &cluster.admin(),
        "authorizer.group('').resource('secrets').namespace('default').check('create').allowed() && \
        !authorizer.group('').resource('secrets').namespace('default').check('delete').allowed() && \
        !authorizer.serviceAccount('default', 'x').group('').resource('secrets').namespace('default').check('create').allowed()",
    )
    .await;
    let before = webhook.asked();
    let made = json!({"metadata": {"name": "c", "labels": {"judged": "yes"}}});
    wanda.post(CONFIG_MAPS, &made).await.expect(201);
    assert_eq!(webhook.asked() - before, 4, "each question once, and that of the request itself");
    let admin = cluster.admin().post(CONFIG_MAPS, &json!({"metadata": {"name": "d", "labels": {"judged": "yes"}}})).await;
    assert!(admin.refused(422).1.contains("denied request"), "the admin may delete Secrets");
}

/// A denial that nobody spoke would let in what `!...allowed()` guards.
#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_asks_webhooks_too_much_fails_and_is_not_answered_for_them() {
    let webhook = Outside::start(|_, review| {
        let status = json!({"allowed": review["spec"]["resourceAttributes"]["resource"] != "pods"});
        Some(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}))
    })
    .await;
    webhook.kubeconfig("/may");
    let file = webhook.dir.path().join("authorization.yaml");
    write(&file, &configuration("Deny"));
    let cluster = Cluster::start_with(Access { authorization: Some(file), ..Access::default() }).await;
    judge(
        &cluster.admin(),
        "object.data.verbs.split(',').all(verb, !authorizer.group('').resource('pods').namespace('default').check(verb).allowed())",
    )
    .await;
    let wanda = cluster.as_user(User::authenticated("wanda", [""; 0]));
    let asking = |count: usize| {
        // What was asked once is known for a while.
        let verbs = (0..count).map(|n| format!("v{n}-of-{count}")).collect::<Vec<_>>().join(",");
        json!({"metadata": {"name": format!("c{count}"), "labels": {"judged": "yes"}}, "data": {"verbs": verbs}})
    };
    wanda.post(CONFIG_MAPS, &asking(32)).await.expect(201);
    let refused = wanda.post(CONFIG_MAPS, &asking(33)).await;
    assert!(refused.refused(422).1.contains("an expression may put 32 questions to webhooks that authorize, not more"));
}

/// What is labelled `judged` must fit an expression.
async fn judge(admin: &Client, expression: &str) {
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rule = json!({"apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["configmaps"]});
    let policy = json!({"metadata": {"name": "judge"}, "spec": {
        "matchConstraints": {"objectSelector": {"matchLabels": {"judged": "yes"}}, "resourceRules": [rule]},
        "validations": [{"expression": expression}]}});
    admin.post(&format!("{group}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"metadata": {"name": "judge"}, "spec": {"policyName": "judge", "validationActions": ["Deny"]}});
    admin.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.expect(201);
}

/// Threads for what blocks, in the test below.
const BLOCKING_MAX: usize = 8;

#[test]
fn a_webhook_that_never_answers_holds_nobody_but_those_who_need_it() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(BLOCKING_MAX).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let held = Arc::new(AtomicUsize::new(0));
        let webhook = Outside::start({
            let held = held.clone();
            move |_, review| {
                let asked = &review["spec"]["resourceAttributes"];
                // What admission asks has no answer.
                if asked["verb"] == "escalate" || asked["resource"] == "secrets" {
                    held.fetch_add(1, Ordering::SeqCst);
                    return Some(true.into());
                }
                let status = json!({"allowed": review["spec"]["user"] == "wanda"});
                Some(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}))
            }
        })
        .await;
        webhook.kubeconfig("/may");
        let file = webhook.dir.path().join("authorization.yaml");
        let mut patient = configuration("Deny");
        patient["authorizers"][0]["webhook"]["timeout"] = "30s".into();
        write(&file, &patient);
        let cluster = Cluster::start_with(Access { authorization: Some(file), ..Access::default() }).await;
        judge(&cluster.admin(), "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()").await;
        let wanda = cluster.as_user(User::authenticated("wanda", [""; 0]));
        let waiting: Vec<_> = (0..BLOCKING_MAX)
            .flat_map(|n| {
                let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
                let role = json!({"metadata": {"name": format!("r{n}")}, "rules": rules});
                let judged = json!({"metadata": {"name": format!("c{n}"), "labels": {"judged": "yes"}}});
                [(ROLES, role), (CONFIG_MAPS, judged)]
            })
            .map(|(path, body)| {
                let wanda = wanda.clone();
                tokio::spawn(async move { wanda.post(path, &body).await.code })
            })
            .collect();
        eventually(async || held.load(Ordering::SeqCst) == waiting.len()).await;
        for n in 0..100 {
            let made = json!({"metadata": {"name": format!("free{n}")}});
            cluster.admin().post("/api/v1/namespaces/kube-system/configmaps", &made).await.expect(201);
        }
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "they wait for the webhook");
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

/// The webhook lets wanda read what is labelled hers, and pods of one node; it says no to all else.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_what_lists_watches_and_reviews_select() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let webhook = Outside::start({
        let told = told.clone();
        move |_, review| {
            let asked = &review["spec"]["resourceAttributes"];
            told.lock().push(asked.clone());
            let selects = |which: &str, requirement: Value| asked[which]["requirements"] == json!([requirement]);
            let allowed = selects("labelSelector", json!({"key": "owner", "operator": "In", "values": ["wanda"]}))
                || selects("fieldSelector", json!({"key": "spec.nodeName", "operator": "In", "values": ["n"]}));
            Some(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": allowed}}))
        }
    })
    .await;
    webhook.kubeconfig("/may");
    let file = webhook.dir.path().join("authorization.yaml");
    let mut hook = configuration("Deny");
    // Of lists of Secrets that select nothing it is not even asked.
    hook["authorizers"][0]["webhook"]["matchConditions"] = json!([
        {"expression": "request.user == 'wanda' && has(request.resourceAttributes)"},
        {"expression": "request.resourceAttributes.resource != 'secrets' || (has(request.resourceAttributes.labelSelector) && \
            request.resourceAttributes.labelSelector.requirements.exists(one, one.key == 'owner'))"},
    ]);
    write(&file, &hook);
    let cluster = Cluster::start_with(Access { authorization: Some(file), ..Access::default() }).await;
    let wanda = cluster.as_user(User::authenticated("wanda", [""; 0]));
    wanda.get(&format!("{CONFIG_MAPS}?labelSelector=owner%3Dwanda")).await.expect(200);
    wanda.get(&format!("{CONFIG_MAPS}?labelSelector=owner%3Dbob")).await.refused(403);
    wanda.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn").await.expect(200);
    wanda.get("/api/v1/pods?fieldSelector=spec.nodeName!%3Dn").await.refused(403);
    wanda.ask("DELETE", &format!("{CONFIG_MAPS}?labelSelector=owner%3Dwanda"), &[], "").await.expect(200);
    assert_eq!(wanda.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&labelSelector=owner%3Dwanda")).await.next().await, None);
    // The old form of a watch, and reads and watches of one object, select nothing.
    wanda.get("/api/v1/watch/namespaces/default/configmaps?labelSelector=owner%3Dwanda").await.refused(403);
    wanda.get(&format!("{CONFIG_MAPS}/x?watch=1&labelSelector=owner%3Dwanda")).await.refused(403);
    wanda.get(&format!("{CONFIG_MAPS}/x?labelSelector=owner%3Dwanda")).await.refused(403);
    let before = webhook.asked();
    wanda.get(SECRETS).await.refused(403);
    assert_eq!(webhook.asked(), before);
    wanda.get(&format!("{SECRETS}?labelSelector=owner%3Dwanda")).await.expect(200);
    assert_eq!(
        told.lock().last(),
        Some(&json!({"namespace": "default", "verb": "list", "version": "v1", "resource": "secrets",
            "labelSelector": {"requirements": [{"key": "owner", "operator": "In", "values": ["wanda"]}]}}))
    );
    // Reviews say it in either form.
    let admin = cluster.admin();
    let review = async |selector: Value| {
        let mut attributes = json!({"verb": "list", "resource": "configmaps"});
        for (key, value) in selector.as_object().expect("selectors") {
            attributes[key] = value.clone();
        }
        let review = json!({"spec": {"user": "wanda", "resourceAttributes": attributes}});
        admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await
    };
    let status = async |selector: Value| review(selector).await.expect(201)["status"].clone();
    assert_eq!(status(json!({"labelSelector": {"rawSelector": "owner=wanda"}})).await, json!({"allowed": true}));
    let requirement = |operator: &str| json!([{"key": "owner", "operator": operator, "values": ["wanda"]}]);
    assert_eq!(status(json!({"labelSelector": {"requirements": requirement("In")}})).await, json!({"allowed": true}));
    assert_eq!(
        status(json!({"labelSelector": {"requirements": requirement("Newer")}})).await,
        json!({"allowed": false, "evaluationError": "spec.resourceAttributes.labelSelector ignored due to parse error"})
    );
    assert!(review(json!({"labelSelector": {}})).await.refused(422).1.contains("labelSelector.requirements: Required value"));
    // And expressions of policies may ask.
    let group = "/apis/admissionregistration.k8s.io/v1";
    let may = "authorizer.group('').resource('configmaps').labelSelector('owner=wanda').check('list').allowed() && \
        !authorizer.group('').resource('configmaps').labelSelector('owner=bob').check('list').allowed() && \
        authorizer.group('').resource('pods').fieldSelector('spec.nodeName=n').check('list').allowed()";
    let rules =
        json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": rules, "validations": [{"expression": may}]}});
    admin.post(&format!("{group}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    admin.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let group = "rbac.authorization.k8s.io";
    let role = json!({"metadata": {"name": "maker"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]});
    let binding = json!({"metadata": {"name": "wanda"}, "subjects": [{"kind": "User", "name": "wanda", "apiGroup": group}],
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "maker"}});
    admin.post(&format!("/apis/{group}/v1/clusterroles"), &role).await.expect(201);
    admin.post(&format!("/apis/{group}/v1/clusterrolebindings"), &binding).await.expect(201);
    eventually(async || wanda.post(CONFIG_MAPS, &json!({"metadata": {"name": "by-wanda"}})).await.code == 201).await;
    // The admin may list anything, so that one of the three is not true.
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "by-admin"}})).await.refused(422);
}
