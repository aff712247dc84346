//! Pods as users of Kubernetes expect them: the real binary, real containers, seen through the API and from inside.

use serde_json::{Value, json};

use crate::harness::{self, Knarr, alone};

/// A Knarr that runs and has busybox. Its pods write their marks below `/marks`, a directory of the host.
fn begin() -> Knarr {
    let mut knarr = Knarr::new();
    knarr.up();
    knarr.import("busybox");
    std::fs::create_dir(marks(&knarr)).unwrap();
    knarr
}

fn marks(knarr: &Knarr) -> std::path::PathBuf {
    knarr.data_dir().with_file_name("marks")
}

/// The words that containers have left in a file of `/marks`.
fn words(knarr: &Knarr, file: &str) -> String {
    let text = std::fs::read_to_string(marks(knarr).join(file)).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A pod of busybox from its spec: images, the volume of marks and a short grace period are filled in.
fn pod(knarr: &Knarr, name: &str, mut spec: Value) -> String {
    spec["terminationGracePeriodSeconds"] = spec.get("terminationGracePeriodSeconds").cloned().unwrap_or(json!(1));
    let volumes = spec.as_object_mut().unwrap().entry("volumes").or_insert(json!([]));
    volumes.as_array_mut().unwrap().push(json!({"name": "marks", "hostPath": {"path": marks(knarr), "type": "Directory"}}));
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container["image"] = container.get("image").cloned().unwrap_or(json!("busybox:1"));
            let mounts = container.as_object_mut().unwrap().entry("volumeMounts").or_insert(json!([]));
            mounts.as_array_mut().unwrap().push(json!({"name": "marks", "mountPath": "/marks"}));
        }
    }
    let metadata = json!({"name": name, "labels": {"tier": "web"}, "annotations": {"note": "hello"}});
    format!("{}\n---\n", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

/// One container that runs a script.
fn script(script: &str) -> Value {
    json!({"name": "main", "command": ["sh", "-c", script]})
}

/// What goes on until it is told to end, and then leaves a mark.
fn until_told(mark: &str, file: &str) -> String {
    format!("trap 'echo {mark} >> /marks/{file}; exit 0' TERM; while :; do sleep 1 & wait $!; done")
}

fn phase_is(phase: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| pod["status"]["phase"] == phase
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let found = conditions.iter().find(|it| it["type"] == kind);
    found.map_or_else(String::new, |it| it["status"].as_str().unwrap_or_default().to_owned())
}

/// The status of a container, of whichever list.
fn of<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.into_iter().find(|it| it["name"] == container).unwrap_or(&Value::Null)
}

/// `ended 3 Error restarts=1`, `waiting CrashLoopBackOff restarts=2`, `running restarts=0`.
fn state(pod: &Value, container: &str) -> String {
    let it = of(pod, container);
    let restarts = &it["restartCount"];
    let state = &it["state"];
    if let Some(ended) = state.get("terminated") {
        // What never ran has none.
        assert!(
            ended["reason"] == "ContainerStatusUnknown" || ended["startedAt"].is_string() && ended["finishedAt"].is_string(),
            "its times are known: {ended}"
        );
        return format!("ended {} {} restarts={restarts}", ended["exitCode"], ended["reason"].as_str().unwrap_or_default());
    }
    if let Some(waiting) = state.get("waiting") {
        return format!("waiting {} restarts={restarts}", waiting["reason"].as_str().unwrap_or_default());
    }
    if state.get("running").is_some() { format!("running restarts={restarts}") } else { "unknown".to_owned() }
}

fn waits(container: &'static str, reason: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| of(pod, container)["state"]["waiting"]["reason"] == reason
}

#[test]
fn containers_start_in_order_and_end_as_their_policies_say() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let knarr = begin();
        let named = |name: &str, text: &str| json!({"name": name, "command": ["sh", "-c", text]});
        let sidecar = |name: &str, text: &str| {
            let mut it = named(name, text);
            it["restartPolicy"] = json!("Always");
            it
        };
        let mut slow = sidecar("slow", &format!("echo slow >> /marks/order; sleep 1; touch /up; {}", until_told("slow-ends", "order")));
        slow["startupProbe"] = json!({"exec": {"command": ["test", "-e", "/up"]}, "periodSeconds": 1, "failureThreshold": 60});
        let quick = sidecar("quick", &format!("echo quick >> /marks/order; {}", until_told("quick-ends", "order")));
        let order = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
            "initContainers": [named("first", "echo first >> /marks/order"), slow, quick, named("second", "echo second >> /marks/order")],
            "containers": [named("main", "echo main >> /marks/order")]});
        let again = "test -e /v/again && exit 3; touch /v/again; exit 42";
        let mut ruled = script(again);
        ruled["restartPolicy"] = json!("Never");
        ruled["restartPolicyRules"] = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let kept = |mut container: Value| {
            container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
            json!({"restartPolicy": "OnFailure", "volumes": [{"name": "v", "emptyDir": {}}], "containers": [container]})
        };
        let mut said = script("echo once; echo last words; exit 7");
        said["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        let mut greedy = script("tail /dev/zero");
        greedy["resources"] = json!({"limits": {"memory": "16Mi", "cpu": "1"}});
        let written = named("bad", "echo why it failed > /dev/termination-log; exit 3");
        knarr.apply(
            &[
                pod(&knarr, "order", order),
                pod(&knarr, "crash", json!({"containers": [said]})),
                pod(&knarr, "init-fails", json!({"restartPolicy": "Never", "initContainers": [written], "containers": [script("true")]})),
                pod(&knarr, "init-retries", json!({"initContainers": [named("bad", "exit 4")], "containers": [script("true")]})),
                pod(&knarr, "onfailure", kept(script("test -e /v/again && exit 0; touch /v/again; exit 1"))),
                pod(&knarr, "ruled", kept(ruled)),
                pod(&knarr, "never", json!({"restartPolicy": "Never", "containers": [script("exit 5")]})),
                pod(&knarr, "deadline", json!({"activeDeadlineSeconds": 5, "containers": [script("sleep 1000")]})),
                pod(&knarr, "absent", json!({"containers": [{"name": "main", "command": ["/nonexistent"]}]})),
                pod(&knarr, "oom", json!({"restartPolicy": "Never", "containers": [greedy]})),
            ]
            .concat(),
        );

        let order = knarr.pod("order", "done", phase_is("Succeeded"));
        assert_eq!(words(&knarr, "order"), "first slow quick second main quick-ends slow-ends");
        assert_eq!(state(&order, "quick"), "ended 0 Completed restarts=0");
        assert_eq!((condition(&order, "Initialized").as_str(), condition(&order, "Ready").as_str()), ("True", "False"));
        assert_eq!(order["status"]["observedGeneration"], 1);

        let crash = knarr.pod("crash", "waiting for its second restart", |it| {
            waits("main", "CrashLoopBackOff")(it) && of(it, "main")["restartCount"].as_i64() >= Some(1)
        });
        let said = &of(&crash, "main")["lastState"]["terminated"];
        assert_eq!((&said["exitCode"], &said["reason"], &said["message"]), (&json!(7), &json!("Error"), &json!("once\nlast words\n")));
        let why = of(&crash, "main")["state"]["waiting"]["message"].as_str().unwrap();
        let uid = crash["metadata"]["uid"].as_str().unwrap();
        assert!(
            why.starts_with("back-off ") && why.ends_with(&format!("s restarting failed container=main pod=crash_default({uid})")),
            "{why}"
        );
        assert_eq!(crash["status"]["phase"], "Running");
        assert_eq!(knarr.run(&["logs", "crash", "--previous"]), "once\nlast words\n");

        let init = knarr.pod("init-fails", "failed", phase_is("Failed"));
        assert_eq!(
            (state(&init, "bad").as_str(), state(&init, "main").as_str()),
            ("ended 3 Error restarts=0", "waiting PodInitializing restarts=0")
        );
        assert_eq!(of(&init, "bad")["state"]["terminated"]["message"], "why it failed\n");
        let init = knarr.pod("init-retries", "in back-off", waits("bad", "CrashLoopBackOff"));
        assert_eq!((&init["status"]["phase"], condition(&init, "Initialized").as_str()), (&json!("Pending"), "False"));

        let absent = knarr.pod("absent", "in back-off", waits("main", "CrashLoopBackOff"));
        let last = &of(&absent, "main")["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["reason"]), (&json!(128), &json!("StartError")));
        assert!(last["message"].as_str().unwrap().starts_with("exec: \"/nonexistent\": No such file or directory"), "{last}");

        let ended = |name: &str, phase: &'static str| state(&knarr.pod(name, phase, phase_is(phase)), "main");
        assert_eq!(ended("onfailure", "Succeeded"), "ended 0 Completed restarts=1");
        assert_eq!(ended("ruled", "Failed"), "ended 3 Error restarts=1");
        assert_eq!(ended("never", "Failed"), "ended 5 Error restarts=0");
        assert_eq!(ended("oom", "Failed"), "ended 137 OOMKilled restarts=0");
        let late = knarr.pod("deadline", "failed", phase_is("Failed"));
        // On a loaded machine it may not have begun by then.
        assert_eq!(
            (&late["status"]["reason"], &of(&late, "main")["state"]["terminated"]["exitCode"]),
            (&json!("DeadlineExceeded"), &json!(137))
        );

        let shown = knarr.run(&["get", "pods"]);
        let status = |name: &str| {
            let line = shown.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
            line.split_whitespace().nth(2).unwrap_or_default().to_owned()
        };
        let reasons = ["order", "crash", "init-fails", "init-retries", "onfailure", "never", "oom"].map(status);
        assert_eq!(reasons, ["Completed", "CrashLoopBackOff", "Init:Error", "Init:CrashLoopBackOff", "Completed", "Error", "OOMKilled"]);
    });
}

#[test]
fn probes_and_hooks_decide_when_containers_are_ready_restarted_and_ended() {
    knarr_testbed::require_root!();
    alone(&["busybox", "grpc"], || {
        let knarr = begin();
        knarr.import("grpc");
        let web = json!({"name": "web", "ports": [{"name": "http", "containerPort": 8080}],
            "command": ["sh", "-c", "mkdir /www; echo > /www/ok; exec httpd -f -p 8080 -h /www"],
            "startupProbe": {"httpGet": {"path": "/started", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1000},
            "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
        let files = json!({"name": "files", "command": ["sh", "-c", "touch /live /ready; sleep 1000"],
            "livenessProbe": {"exec": {"command": ["cat", "/live"]}, "periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"exec": {"command": ["cat", "/ready"]}, "periodSeconds": 1, "failureThreshold": 1}});
        let grpc = json!({"name": "grpc", "image": "grpc:1",
            "readinessProbe": {"grpc": {"port": 9000, "service": "web"}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1}});
        let mut stops = script(
            "trap 'echo term >> /marks/stop; exit 3' TERM; trap 'echo usr1 >> /marks/stop; exit 4' USR1; while :; do sleep 1 & wait $!; done",
        );
        stops["lifecycle"] = json!({"stopSignal": "SIGUSR1", "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> /marks/stop"]}}});
        let mut asked = script("mkdir /www; echo > /www/bye; httpd -p 8081 -h /www; sleep 1000");
        asked["lifecycle"] =
            json!({"preStop": {"httpGet": {"path": "/bye", "port": 8081}}, "postStart": {"exec": {"command": ["touch", "/marks/after"]}}});
        let mut fails = script("sleep 1000");
        fails["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 9"]}}});
        let mut sleeps = script("sleep 1000");
        sleeps["lifecycle"] = json!({"postStart": {"exec": {"command": ["sleep", "100000"]}}});
        let deaf = script("trap '' TERM; touch /marks/deaf; while :; do sleep 1; done");
        knarr.apply(
            &[
                pod(&knarr, "probed", json!({"containers": [web, files], "readinessGates": [{"conditionType": "example.com/gate"}]})),
                pod(&knarr, "grpc", json!({"containers": [grpc]})),
                pod(&knarr, "stops", json!({"containers": [stops], "os": {"name": "linux"}, "terminationGracePeriodSeconds": 600})),
                pod(&knarr, "asked", json!({"containers": [asked]})),
                pod(&knarr, "fails", json!({"containers": [fails], "restartPolicy": "Never"})),
                pod(&knarr, "sleeps", json!({"containers": [sleeps]})),
                pod(&knarr, "deaf", json!({"containers": [deaf], "terminationGracePeriodSeconds": 100_000})),
            ]
            .concat(),
        );

        // The startup probe holds the others back: the liveness probe would have ended the container at once.
        let probed =
            knarr.pod("probed", "half ready", |it| of(it, "files")["ready"] == true && of(it, "web")["state"].get("running").is_some());
        assert_eq!((&of(&probed, "web")["started"], state(&probed, "web").as_str()), (&json!(false), "running restarts=0"));
        knarr.shell("probed", "web", "touch /www/live /www/started");
        let probed = knarr.pod("probed", "up but for its gate", |it| condition(it, "ContainersReady") == "True");
        assert_eq!((condition(&probed, "Ready").as_str(), state(&probed, "web").as_str()), ("False", "running restarts=0"));
        let gate = r#"{"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}"#;
        knarr.must_kubectl(&["patch", "pod", "probed", "--subresource=status", "-p", gate]);
        knarr.pod("probed", "ready", is_ready);
        knarr.shell("probed", "files", "rm /ready");
        let probed = knarr.pod("probed", "unready", |it| !is_ready(it));
        assert_eq!((&of(&probed, "files")["ready"], state(&probed, "files").as_str()), (&json!(false), "running restarts=0"));
        knarr.shell("probed", "files", "rm /live");
        knarr.pod("probed", "ready again", |it| is_ready(it) && state(it, "files") == "running restarts=1");
        knarr.shell("probed", "web", "rm /www/live");
        let probed = knarr.pod("probed", "restarted", |it| state(it, "web") == "running restarts=1");
        assert_eq!(of(&probed, "web")["lastState"]["terminated"]["exitCode"], 137, "httpd as first process heeds no signal");

        let grpc = knarr.pod("grpc", "running", |it| state(it, "grpc") == "running restarts=0");
        assert!(!is_ready(&grpc), "its server says that it does not serve");
        knarr.shell("grpc", "grpc", "touch /serving");
        knarr.pod("grpc", "ready", is_ready);

        knarr.pod("stops", "ready", is_ready);
        knarr.delete("stops");
        knarr.gone("stops");
        assert_eq!(words(&knarr, "stop"), "pre usr1");
        knarr.pod("asked", "ready", is_ready);
        assert!(marks(&knarr).join("after").exists());
        knarr.delete("asked");
        knarr.gone("asked");
        let fails = knarr.pod("fails", "failed", phase_is("Failed"));
        assert_eq!(state(&fails, "main"), "ended 137 Error restarts=0");
        let events = knarr.run(&["get", "events"]);
        assert!(events.contains("PostStartHook failed: no") && !events.contains("PreStopHook failed"), "{events}");
        // A hook that would take a day holds up neither other containers nor the end.
        knarr.pod("sleeps", "begun", |it| of(it, "main")["containerID"].is_string());
        knarr.delete("sleeps");
        knarr.gone("sleeps");
        // A longer grace period is cut short by a second deletion.
        knarr.pod("deaf", "ready", |_| marks(&knarr).join("deaf").exists());
        knarr.delete("deaf");
        knarr.pod("deaf", "ending", |it| it["metadata"]["deletionTimestamp"].is_string());
        knarr.must_kubectl(&["delete", "pod", "deaf", "--grace-period=1", "--wait=false"]);
        knarr.gone("deaf");
    });
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, size: "10"}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {user: admin, password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: my-db}
spec: {selector: {tier: db}, ports: [{name: sql, port: 5432}]}
---
"#;

#[test]
fn configuration_reaches_containers_and_follows_its_objects() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let knarr = begin();
        knarr.apply(OBJECTS);
        let from = |kind: &str, what: Value| json!({kind: what});
        let variable = |name: &str, from: Value| json!({"name": name, "valueFrom": from});
        let field = |path: &str| from("fieldRef", json!({"fieldPath": path}));
        let key = |name: &str, key: &str, optional: bool| from("configMapKeyRef", json!({"name": name, "key": key, "optional": optional}));
        let resource = |name: &str, divisor: &str| from("resourceFieldRef", json!({"resource": name, "divisor": divisor}));
        let main = json!({"name": "main", "command": ["sh", "-c", "env; echo ARGS=$0+$1; sleep 1000", "$(GREETING)", "$$(GREETING)$(NOSUCH)"],
            "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "32Mi"}},
            "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "login"}},
                {"configMapRef": {"name": "nosuch", "optional": true}}],
            "env": [variable("COLOUR", key("settings", "colour", false)), {"name": "GREETING", "value": "hi $(COLOUR) $(CFG_size) $$(COLOUR)"},
                variable("NONE", key("settings", "nosuch", true)), variable("POD_NAME", field("metadata.name")),
                variable("TIER", field("metadata.labels['tier']")), variable("IP", field("status.podIP")),
                variable("CPU", resource("requests.cpu", "1m")), variable("MEMORY", resource("limits.memory", "1Mi"))]});
        let waits_for = |name: &str| json!({"name": "main", "command": ["sleep", "1000"], "env": [variable("X", key(name, "x", false))]});
        let mounted = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        let sub = |name: &str, path: &str, how: &str, value: &str| json!({"name": name, "mountPath": path, how: value});
        let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "some", "configMap": {"name": "settings", "defaultMode": 0o640,
                "items": [{"key": "colour", "path": "sub/colour", "mode": 0o400}, {"key": "size", "path": "size"}]}},
            {"name": "all", "configMap": {"name": "settings"}}, {"name": "optional", "secret": {"secretName": "nosuch", "optional": true}},
            {"name": "all-in", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
                {"secret": {"name": "login"}}, {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]);
        let image = json!({"name": "main", "command": ["sleep", "1000"], "volumeMounts": [mounted("i", "/image"), sub("i", "/programs", "subPath", "usr/bin")]});
        let image = json!({"volumes": [{"name": "i", "image": {"reference": "busybox:2"}}], "containers": [image]});
        let user = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 4242, "supplementalGroups": [77]});
        let files = json!({"name": "main", "command": ["sh", "-c", "while ! test -e /disk/end; do sleep 0.2; done; rm /disk/end"],
            "env": [variable("POD", field("metadata.name"))],
            "volumeMounts": [mounted("disk", "/disk"), sub("disk", "/sub", "subPath", "inner/dir"), sub("disk", "/expr", "subPathExpr", "$(POD)"),
                {"name": "disk", "mountPath": "/ro", "readOnly": true}, mounted("memory", "/memory"), mounted("some", "/some"), mounted("all", "/all"),
                sub("all", "/file", "subPath", "colour"), mounted("optional", "/optional"), mounted("all-in", "/all-in")]});
        knarr.apply(
            &[
                pod(&knarr, "image", image),
                pod(&knarr, "env", json!({"containers": [main]})),
                pod(&knarr, "waits", json!({"containers": [waits_for("later")]})),
                pod(
                    &knarr,
                    "waits-too",
                    json!({"containers": [script("sleep 1000")], "volumes": [{"name": "v", "configMap": {"name": "later"}}]}),
                ),
                pod(&knarr, "files", json!({"securityContext": user, "volumes": volumes, "containers": [files]})),
            ]
            .concat(),
        );

        knarr.pod("image", "ready", is_ready);
        assert_eq!(knarr.shell("image", "main", "ls -d /image/etc/passwd /programs/busybox"), "/image/etc/passwd\n/programs/busybox\n");
        assert!(knarr.shell("image", "main", "touch /image/x").contains("Read-only file system"));

        let env = knarr.pod("env", "ready", is_ready);
        let seen = knarr.run(&["logs", "env"]);
        let ip = format!("IP={}", env["status"]["podIP"].as_str().unwrap());
        for line in [
            "CFG_colour=blue",
            "CFG_size=10",
            "user=admin",
            "password=hunter2",
            "COLOUR=blue",
            "GREETING=hi blue 10 $(COLOUR)",
            "POD_NAME=env",
            "TIER=web",
            &ip,
            "CPU=250",
            "MEMORY=32",
            "ARGS=hi blue 10 $(COLOUR)+$(GREETING)$(NOSUCH)",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_SQL=5432",
            "HOSTNAME=env",
        ] {
            assert!(seen.lines().any(|it| it == line), "{line} in {seen}");
        }
        assert!(!seen.contains("NONE="), "{seen}");
        assert_eq!(env["status"]["qosClass"], "Burstable");

        let waits_now = knarr.pod("waits", "waiting", waits("main", "CreateContainerConfigError"));
        assert_eq!(of(&waits_now, "main")["state"]["waiting"]["message"], "configmap \"later\" not found");
        knarr.pod("waits-too", "waiting", waits("main", "ContainerCreating"));
        knarr.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\ndata: {x: found}\n");
        knarr.pod("waits", "ready", is_ready);
        knarr.pod("waits-too", "ready", is_ready);
        assert_eq!(knarr.shell("waits", "main", "echo $X"), "found\n");

        knarr.pod("files", "ready", is_ready);
        let look = |script: &str| knarr.shell("files", "main", script);
        assert_eq!(look("id -u; id -g; id -G | tr ' ' '\\n' | sort -n | xargs"), "1000\n1000\n77 1000 4242\n");
        assert_eq!(
            look("cat /some/sub/colour /some/size /all/colour /file /all-in/password /all-in/labels"),
            "blue10bluebluehunter2tier=\"web\""
        );
        assert_eq!(
            look("stat -L -c '%a %g' /some/sub/colour /some/size /all/colour /all-in/token"),
            "440 4242\n640 4242\n644 4242\n640 4242\n"
        );
        assert_eq!(
            look("echo x > /disk/a && echo x > /sub/b && echo x > /expr/c && ls /disk /disk/inner/dir /disk/files"),
            "/disk:\na\nfiles\ninner\n\n/disk/files:\nc\n\n/disk/inner/dir:\nb\n"
        );
        for denied in ["/ro/x", "/some/x", "/all-in/x"] {
            assert!(look(&format!("touch {denied}")).contains("Read-only file system"), "{denied}");
        }
        assert!(
            look("head -c 2000000 /dev/zero > /memory/big 2>/dev/null; stat -c %s /memory/big").ends_with("1048576\n"),
            "no more than its limit"
        );
        assert_eq!(look("ls /optional"), "");
        let claims = look("cut -d. -f2 /all-in/token | tr '_-' '/+' | base64 -d 2>/dev/null");
        assert!(claims.contains(r#""aud":["vault"]"#) && claims.contains(r#""name":"files""#), "{claims}");

        // Files follow; what is mounted by subPath or in the environment does so when the container starts anew.
        knarr.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red, size: \"10\", more: \"1\"}\n");
        knarr.pod("files", "up to date", |_| look("cat /all/colour /all/more") == "red1");
        assert_eq!(look("cat /file"), "blue");
        look("touch /disk/end");
        knarr.pod("files", "restarted", |it| state(it, "main") == "running restarts=1");
        assert_eq!(look("cat /file"), "red");
    });
}

#[test]
fn a_pod_has_the_rights_and_the_world_that_it_asks_for() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let knarr = begin();
        let sleeper = |name: &str, context: Value| json!({"name": name, "command": ["sleep", "1000"], "securityContext": context});
        let tight = json!({"runAsUser": 1000, "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
        let world = json!({"hostname": "custom", "subdomain": "sub", "setHostnameAsFQDN": true, "shareProcessNamespace": true,
            "hostAliases": [{"ip": "192.0.2.4", "hostnames": ["foo.local", "bar.local"]}],
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["my.dom"], "options": [{"name": "ndots", "value": "2"}]},
            "securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "2000 3000"}]},
            "containers": [sleeper("plain", json!({})), sleeper("tight", tight), sleeper("privileged", json!({"privileged": true}))]});
        let host = json!({"hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": [script("sleep 1000")]});
        knarr.apply(
            &[
                pod(&knarr, "world", world),
                pod(&knarr, "host", host),
                pod(&knarr, "non-root", json!({"containers": [sleeper("main", json!({"runAsNonRoot": true}))]})),
                pod(&knarr, "users", json!({"hostUsers": false, "containers": [script("sleep 1000")]})),
                pod(&knarr, "windows", json!({"os": {"name": "windows"}, "containers": [script("sleep 1000")]})),
            ]
            .concat(),
        );
        knarr.pod("world", "ready", is_ready);
        let look = |container: &str, script: &str| knarr.shell("world", container, script);
        assert_eq!(
            look("plain", "hostname; cat /proc/sys/net/ipv4/ip_local_port_range"),
            "custom.sub.default.svc.cluster.local\n2000\t3000\n"
        );
        assert_eq!(look("plain", "cat /etc/resolv.conf"), "search my.dom\nnameserver 192.0.2.9\noptions ndots:2\n");
        let hosts = look("plain", "cat /etc/hosts");
        assert!(
            hosts.contains("192.0.2.4\tfoo.local\tbar.local") && hosts.contains("\tcustom.sub.default.svc.cluster.local\tcustom"),
            "{hosts}"
        );
        assert_eq!(look("plain", "ps | grep -c '[s]leep 1000'"), "3\n", "the processes of all containers are there");
        let rights = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2 | xargs";
        assert_eq!(look("plain", rights), "00000000a80425fb 00000000a80425fb 0 2\n");
        assert_eq!(look("tight", rights), "0000000000000000 0000000000000400 1 2\n");
        assert!(look("privileged", rights).ends_with(" 0 0\n"));
        assert!(look("tight", "touch /x").contains("Read-only file system"));
        assert!(look("tight", "id -u").contains("1000"));
        let masked = "ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic_on_oops";
        assert!(look("plain", masked).contains("Read-only file system"));
        assert!(look("plain", masked).starts_with("0\n"));
        assert!(
            look("plain", "mount -t tmpfs t /tmp").contains("denied") && !look("privileged", "mount -t tmpfs t /tmp").contains("denied")
        );

        knarr.pod("host", "ready", is_ready);
        let same = |name: &str| {
            let here = std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
            knarr.shell("host", "main", &format!("readlink /proc/self/ns/{name}")).trim() == here.to_str().unwrap()
        };
        assert_eq!(["net", "pid", "ipc", "mnt"].map(same), [true, true, true, false]);

        let refused = knarr.pod("non-root", "refused", waits("main", "CreateContainerConfigError"));
        let why = &of(&refused, "main")["state"]["waiting"]["message"];
        assert_eq!(why, "container has runAsNonRoot and image will run as root (container: main)");
        // What cannot be given is refused, not left out.
        knarr.pod("users", "waiting", waits("main", "ContainerCreating"));
        knarr.pod("users", "told of", |_| knarr.run(&["get", "events"]).contains("does not offer user namespaces yet"));
        // The rules for pods are relaxed for other systems: none of theirs may run here.
        knarr.pod("windows", "waiting", waits("main", "ContainerCreating"));
        knarr.pod("windows", "told of", |_| knarr.run(&["get", "events"]).contains("this node runs linux"));
    });
}

#[test]
fn a_running_pod_is_resized_and_debugged() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    alone(&["busybox"], || {
        let knarr = begin();
        let limits =
            |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}});
        let mut main = script("sleep 4321");
        main["resources"] = limits("100m", "32Mi");
        let mut strict = main.clone();
        strict["name"] = json!("strict");
        strict["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        knarr.apply(&pod(&knarr, "sized", json!({"containers": [main, strict]})));
        let before = knarr.pod("sized", "ready", is_ready);
        // The limits as the kernel has them: of cgroup v1, or of v2.
        let kernel = |container: &str| {
            let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us 2>/dev/null || cat memory.max cpu.max";
            knarr.shell("sized", container, script).split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kernel("main"), "33554432 10000");
        let resize = |main: Value, strict: Value| {
            let patch = json!({"spec": {"containers": [{"name": "main", "resources": main}, {"name": "strict", "resources": strict}]}});
            knarr.must_kubectl(&["patch", "pod", "sized", "--subresource=resize", "-p", &patch.to_string()]);
        };
        resize(limits("300m", "64Mi"), limits("100m", "32Mi"));
        let grown = knarr.pod("sized", "grown", |it| of(it, "main")["resources"] == limits("300m", "64Mi"));
        assert_eq!(kernel("main"), "67108864 30000");
        assert_eq!(of(&grown, "main")["containerID"], of(&before, "main")["containerID"], "it was not restarted");
        assert_eq!(grown["status"]["observedGeneration"], 2);
        resize(limits("200m", "48Mi"), limits("100m", "64Mi"));
        let shrunk = knarr.pod("sized", "resized again", |it| {
            of(it, "main")["resources"] == limits("200m", "48Mi") && state(it, "strict") == "running restarts=1"
        });
        assert_eq!(kernel("main"), "50331648 20000");
        assert_eq!(kernel("strict"), "67108864 10000");
        assert_eq!((state(&shrunk, "main").as_str(), condition(&shrunk, "PodResizeInProgress").as_str()), ("running restarts=0", ""));

        let list = "ps -o comm,args; echo seen; sleep 1000";
        knarr.must_kubectl(&["debug", "sized", "--image=busybox:1", "-c", "apart", "--", "sh", "-c", list]);
        knarr.must_kubectl(&["debug", "sized", "--image=busybox:1", "-c", "inside", "--target=main", "--", "sh", "-c", list]);
        for (container, sees) in [("apart", false), ("inside", true)] {
            let runs = |it: &Value| state(it, container) == "running restarts=0";
            knarr.pod("sized", container, |it| runs(it) && knarr.run(&["logs", "sized", "-c", container]).contains("seen"));
            let log = knarr.run(&["logs", "sized", "-c", container]);
            assert_eq!(log.contains("sleep 4321"), sees, "{container}: {log}");
        }
        assert_eq!(state(&knarr.pod("sized", "whole", is_ready), "main"), "running restarts=0");
    });
}

#[test]
fn a_running_pod_is_resized_as_a_whole() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    alone(&["busybox"], || {
        let mut knarr = begin();
        let limits =
            |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}});
        let mut strict = script("sleep 4321");
        strict["name"] = json!("strict");
        strict["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let spec = json!({"resources": limits("300m", "96Mi"), "containers": [script("sleep 4321"), strict]});
        knarr.apply(&pod(&knarr, "whole", spec));
        let told = |wanted: Value| move |it: &Value| it["status"]["resources"] == wanted && condition(it, "PodResizeInProgress").is_empty();
        let before = knarr.pod("whole", "ready", |it| is_ready(it) && told(limits("300m", "96Mi"))(it));
        // The pod's cgroup, below which its containers have no limits of their own.
        let uid = before["metadata"]["uid"].as_str().unwrap().to_owned();
        let kernel = || {
            let find = format!("find /sys/fs/cgroup -type d -name 'pod{uid}' -path '*'");
            let output = std::process::Command::new("sh").args(["-c", &find]).output().unwrap();
            let found = String::from_utf8(output.stdout).unwrap();
            let files = ["memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max"];
            let read = |file: &str| found.lines().find_map(|folder| std::fs::read_to_string(format!("{folder}/{file}")).ok());
            let texts = files.iter().filter_map(|file| read(file));
            texts.map(|text| text.split_whitespace().next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kernel(), "100663296 30000");
        let resize = |knarr: &Knarr, to: &Value| {
            let patch = json!({"spec": {"resources": to}}).to_string();
            knarr.must_kubectl(&["patch", "pod", "whole", "--subresource=resize", "-p", &patch]);
        };
        resize(&knarr, &limits("500m", "96Mi"));
        let grown = knarr.pod("whole", "grown", told(limits("500m", "96Mi")));
        assert_eq!(kernel(), "100663296 50000");
        assert_eq!(grown["status"]["allocatedResources"], json!({"cpu": "500m", "memory": "96Mi"}));
        assert_eq!(state(&grown, "strict"), "running restarts=0");
        // A container that is bound by the pod's memory alone begins anew where its policy says so, and no other does.
        resize(&knarr, &limits("500m", "64Mi"));
        let shrunk = knarr.pod("whole", "shrunk", |it| told(limits("500m", "64Mi"))(it) && state(it, "strict") == "running restarts=1");
        assert_eq!(kernel(), "67108864 50000");
        assert_eq!(of(&shrunk, "main")["containerID"], of(&before, "main")["containerID"]);
        // The limits are known after a restart.
        knarr.kill();
        knarr.up();
        let kept = knarr.pod("whole", "kept", |it| is_ready(it) && told(limits("500m", "64Mi"))(it));
        assert_eq!((kernel(), state(&kept, "strict")), ("67108864 50000".to_owned(), "running restarts=1".to_owned()));
    });
}

#[test]
fn kill_9_in_every_phase_of_a_pod_restarts_nothing_and_loses_no_exit() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let mut knarr = begin();
        // What happens while Knarr is dead happens when the test says so.
        let waits = |file: &str, then: &str| format!("while ! test -e /marks/{file}; do sleep 0.1; done; {then}");
        let init = json!({"name": "init", "command": ["sh", "-c", waits("go", "exit 0")]});
        let mut ready = script("touch /ready; sleep 1000");
        ready["readinessProbe"] = json!({"exec": {"command": ["cat", "/ready"]}});
        let deaf = script("trap '' TERM; touch /marks/deaf; while :; do sleep 1; done");
        knarr.apply(
            &[
                pod(&knarr, "initial", json!({"initContainers": [init], "containers": [script("sleep 1000")]})),
                pod(
                    &knarr,
                    "exits",
                    json!({"restartPolicy": "Never", "containers": [script(&waits("go", "echo bye; touch /marks/exited; exit 42"))]}),
                ),
                pod(&knarr, "crashes", json!({"containers": [script("exit 9")]})),
                pod(&knarr, "runs", json!({"containers": [ready]})),
                pod(&knarr, "ends", json!({"containers": [deaf], "terminationGracePeriodSeconds": 10})),
            ]
            .concat(),
        );
        let runs = knarr.pod("runs", "ready", is_ready);
        knarr.pod("initial", "begun", |it| state(it, "init") == "running restarts=0");
        knarr.pod("exits", "begun", |it| state(it, "main") == "running restarts=0");
        let crashes = knarr.pod("crashes", "in back-off", |it| state(it, "main") == "waiting CrashLoopBackOff restarts=1");
        knarr.pod("ends", "deaf", |_| marks(&knarr).join("deaf").exists());
        knarr.delete("ends");
        knarr.pod("ends", "ending", |it| it["metadata"]["deletionTimestamp"].is_string());
        knarr.kill();
        std::fs::write(marks(&knarr).join("go"), "").unwrap();
        while !marks(&knarr).join("exited").exists() {
            std::thread::yield_now();
        }
        knarr.up();

        let after = knarr.pod("runs", "ready", is_ready);
        assert_eq!(of(&after, "main"), of(&runs, "main"), "adopted as it was");
        assert_eq!(after["status"]["podIP"], runs["status"]["podIP"]);
        let exits = knarr.pod("exits", "failed", phase_is("Failed"));
        assert_eq!(state(&exits, "main"), "ended 42 Error restarts=0");
        assert_eq!(knarr.run(&["logs", "exits"]), "bye\n");
        let initial = knarr.pod("initial", "ready", is_ready);
        assert_eq!(
            (state(&initial, "init").as_str(), state(&initial, "main").as_str()),
            ("ended 0 Completed restarts=0", "running restarts=0")
        );
        let crashed = knarr.pod("crashes", "crashed once more", |it| of(it, "main")["restartCount"].as_i64() >= Some(2));
        let (first, second) = (of(&crashes, "main"), of(&crashed, "main"));
        assert_eq!(first["lastState"]["terminated"]["exitCode"], 9);
        assert!(second["lastState"]["terminated"]["exitCode"] == 9 || second["state"]["terminated"]["exitCode"] == 9, "{second}");
        knarr.gone("ends");
    });
}

#[test]
fn a_pod_whose_keeper_is_killed_gets_another() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let knarr = begin();
        knarr.apply(&pod(&knarr, "kept", json!({"containers": [script("sleep 1000")]})));
        let before = knarr.pod("kept", "ready", is_ready);
        let sandbox = format!("{}-0", before["metadata"]["uid"].as_str().unwrap());
        let keepers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let entry = entry.ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let ours = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().ends_with(&sandbox);
            ours.then(|| entry.file_name().to_str()?.parse::<i32>().ok()).flatten()
        });
        let keepers: Vec<i32> = keepers.collect();
        assert_eq!(keepers.len(), 1, "{keepers:?}");
        std::process::Command::new("kill").args(["-9", &keepers[0].to_string()]).status().unwrap();
        let after = knarr.pod("kept", "restarted", |it| is_ready(it) && state(it, "main") == "running restarts=1");
        assert_eq!(of(&after, "main")["lastState"]["terminated"]["exitCode"], 137);
        let events = knarr.run(&["get", "events"]);
        assert!(events.contains("Pod sandbox changed, it will be killed and re-created."), "{events}");
        assert_eq!(knarr.shell("kept", "main", "echo it works"), "it works\n");
    });
}

#[test]
fn a_node_short_of_disk_evicts_who_takes_it_and_takes_no_more_pods() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("mkfs.ext4");
    alone(&["busybox"], || {
        let mut knarr = Knarr::with_disk(3 << 30);
        knarr.up();
        knarr.import("busybox");
        std::fs::create_dir(marks(&knarr)).unwrap();
        let writes = |script: &str, volume: Value| {
            let main = json!({"name": "main", "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
            json!({"volumes": [{"name": "v", "emptyDir": volume}], "containers": [main]})
        };
        // Without a byte being written, less than a tenth is free then.
        let hog = writes("touch /v/here; while ! test -e /marks/go; do sleep 0.2; done; fallocate -l 2800m /v/big; sleep 1000", json!({}));
        knarr.apply(
            &[
                pod(&knarr, "small", json!({"containers": [script("sleep 1000")]})),
                pod(&knarr, "hog", hog),
                pod(&knarr, "limited", writes("head -c 2000000 /dev/zero > /v/big; sleep 1000", json!({"sizeLimit": "1Mi"}))),
            ]
            .concat(),
        );
        let limited = knarr.pod("limited", "evicted", phase_is("Failed"));
        assert_eq!(
            (&limited["status"]["reason"], &limited["status"]["message"]),
            (&json!("Evicted"), &json!("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "))
        );
        knarr.pod("small", "ready", is_ready);
        let hog = knarr.pod("hog", "ready", is_ready);
        let files = knarr.data_dir().join("pods").join(hog["metadata"]["uid"].as_str().unwrap()).join("volumes/v");
        assert!(files.join("here").exists());
        std::fs::write(marks(&knarr).join("go"), "").unwrap();
        let hog = knarr.pod("hog", "evicted", phase_is("Failed"));
        assert_eq!((&hog["status"]["reason"], condition(&hog, "DisruptionTarget").as_str()), (&json!("Evicted"), "True"));
        let why = hog["status"]["message"].as_str().unwrap();
        assert!(why.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "), "{why}");
        // Its room is free again before anybody deletes it, so nobody else has to go.
        knarr.pod("hog", "released", |_| !files.exists());
        let small = knarr.pod("small", "ready", is_ready);
        assert_eq!(state(&small, "main"), "running restarts=0");

        // Others than pods fill the disk: the node takes no pods until there is room.
        let fill = knarr.data_dir().join("fill");
        harness::output(std::process::Command::new("fallocate").args(["-l", "2800M"]).arg(&fill));
        let taints = |knarr: &Knarr| knarr.run(&["get", "nodes", "-o", "json"]).contains("node.kubernetes.io/disk-pressure");
        knarr.pod("small", "evicted", phase_is("Failed"));
        knarr.pod("small", "on a node with a taint", |_| taints(&knarr));
        knarr.apply(&pod(&knarr, "late", json!({"containers": [script("sleep 1000")]})));
        knarr.pod("late", "unschedulable", |it| condition(it, "PodScheduled") == "False");
        std::fs::remove_file(&fill).unwrap();
        knarr.pod("late", "ready", is_ready);
        assert!(!taints(&knarr));
    });
}
