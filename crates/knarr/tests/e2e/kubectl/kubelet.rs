//! The kubelet's own API: what monitoring reads of it, through the API server and directly, and who may.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Kubectl, Running, cluster, fed, holds, text};

const NODE: &str = "/api/v1/nodes/node-1/proxy";

/// Where the kubelet listens.
const ADDRESS: &str = "get node node-1 -o jsonpath={.status.addresses[0].address}:{.status.daemonEndpoints.kubeletEndpoint.Port}";

/// One container that is busy and held back, and one with probes, of which one never succeeds.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "dd if=/dev/zero of=/written bs=1M count=1; while :; do :; done"]
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 50m, memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: good
    image: busybox:1
    command: [sh, -c, "echo said; echo hello > /index.html; exec httpd -f -p 8080 -h /"]
    livenessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
  - name: bad
    image: busybox:1
    command: [sleep, "1000"]
    readinessProbe: {exec: {command: [test, -e, /nowhere]}, periodSeconds: 1}
"#;

impl Kubectl<'_> {
    fn of_node(&self, path: &str) -> String {
        self.ok(&format!("get --raw {NODE}{path}"))
    }

    fn json_of_node(&self, path: &str) -> Value {
        serde_json::from_str(&self.of_node(path)).expect("JSON")
    }

    /// A kubeconfig for `server` with the token of a service account and nothing else.
    fn as_account(&self, account: &str, server: &str) -> String {
        let token = self.ok(&format!("create token {account}"));
        let authority = self.ok("config view --raw --minify -o jsonpath={.clusters[0].cluster.certificate-authority-data}");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}],
              clusters: [{{name: c, cluster: {{server: '{server}', certificate-authority-data: {authority}}}}}],
              users: [{{name: u, user: {{token: {token}}}}}]}}"
        );
        self.file(&format!("{account}.yaml"), &config)
    }
}

/// A program of Debian's Prometheus.
fn prometheus(name: &str) -> PathBuf {
    knarr_testbed::program("prometheus", &format!("usr/bin/{name}")).expect("Debian's prometheus")
}

/// Has Prometheus' own tool read a page, which must find no fault but those in upstream's names.
#[track_caller]
fn check_metrics(page: &str) {
    // They are asked for by these names.
    const UPSTREAM: [&str; 2] = [
        "container_memory_failcnt counter metrics should have \"_total\" suffix",
        "cadvisor_version_info label names should be written in 'snake_case' not 'camelCase'",
    ];
    let checked = fed(Command::new(prometheus("promtool")).args(["check", "metrics"]), page.as_bytes());
    let found = text(&checked.stderr);
    let others: Vec<&str> = found.lines().filter(|line| !UPSTREAM.contains(line)).collect();
    assert!(checked.status.code() != Some(1) && others.is_empty(), "{others:#?}\n{page}");
}

/// The value of the sample whose line has all of `parts`.
fn sample(page: &str, parts: &[&str]) -> Option<f64> {
    let line = page.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))?;
    line.rsplit_once('}')?.1.split_whitespace().next()?.parse().ok()
}

fn with_pods(test: fn(&Kubectl<'_>)) {
    prometheus("promtool");
    cluster(test);
}

#[test]
fn the_node_tells_what_it_runs_and_how() {
    with_pods(|kubectl| {
        kubectl.apply(PODS);
        kubectl.ok("wait pod/busy --for=condition=Ready --timeout=60s");
        kubectl.ok("wait pod/probed --for=jsonpath={.status.containerStatuses[?(@.name==\"good\")].started}=true --timeout=60s");
        assert_eq!(kubectl.of_node("/healthz"), "ok");
        assert_eq!(kubectl.of_node("/containerLogs/default/probed/good"), "said\n");
        holds(&kubectl.fails(1, &format!("get --raw {NODE}/containerLogs/default/nosuch/good")), &["NotFound"]);

        let pods = kubectl.json_of_node("/pods");
        let mut names: Vec<&str> = pods["items"].as_array().unwrap().iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!((&pods["kind"], &names[..]), (&"PodList".into(), &["busy", "probed"][..]));

        let config = kubectl.json_of_node("/configz");
        let of = |pointer: &str| config.pointer(&format!("/kubeletconfig/{pointer}")).cloned().unwrap_or_default();
        assert_eq!(
            (of("maxPods"), of("clusterDomain"), of("nodeStatusUpdateFrequency")),
            (110.into(), "cluster.local".into(), "10s".into())
        );
        assert_eq!((of("authorization/mode"), of("authentication/anonymous/enabled")), ("Webhook".into(), false.into()));
        let port: Value =
            kubectl.ok("get node node-1 -o jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}").parse::<u16>().unwrap().into();
        assert_eq!((of("port"), of("evictionHard/memory.available"), of("containerLogMaxSize")), (port, "100Mi".into(), "10Mi".into()));

        let summary = kubectl.json_of_node("/stats/summary");
        assert_eq!(summary["node"]["nodeName"], "node-1");
        let of = |pod: &str, pointer: &str| {
            let own = summary["pods"].as_array().unwrap().iter().find(|it| it["podRef"]["name"] == pod);
            own.and_then(|it| it.pointer(pointer)).cloned().unwrap_or_default()
        };
        assert_eq!(of("busy", "/containers/0/name"), "main");
        for pointer in ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes", "/containers/0/rootfs/usedBytes", "/network/txBytes"] {
            assert!(of("busy", pointer).as_u64().is_some_and(|it| it > 0), "{pointer} in {summary}");
        }
        holds(&kubectl.fails(1, &format!("get --raw {NODE}/nosuch")), &["NotFound"]);
    });
}

#[test]
fn metrics_are_read_by_prometheus_own_parser() {
    with_pods(|kubectl| {
        kubectl.apply(PODS);
        kubectl.ok("wait pod/busy --for=condition=Ready --timeout=60s");
        let busy = &["container=\"main\"", "image=\"docker.io/library/busybox:1\"", "namespace=\"default\"", "pod=\"busy\""][..];
        let of_busy = |page: &str, name: &str| sample(page, &[&[name][..], busy].concat());
        kubectl.knarr.eventually("it was held back", |_| {
            of_busy(&kubectl.of_node("/metrics/cadvisor"), "container_cpu_cfs_throttled_seconds_total{").is_some_and(|it| it > 0.0)
        });
        let page = kubectl.of_node("/metrics/cadvisor");
        check_metrics(&page);
        for name in [
            "container_cpu_cfs_periods_total{",
            "container_cpu_cfs_throttled_periods_total{",
            "container_cpu_usage_seconds_total{",
            "container_cpu_user_seconds_total{",
            "container_file_descriptors{",
            "container_fs_usage_bytes{",
            "container_last_seen{",
            "container_memory_max_usage_bytes{",
            "container_memory_usage_bytes{",
            "container_memory_working_set_bytes{",
            "container_processes{",
            "container_start_time_seconds{",
            "container_threads{",
        ] {
            assert!(of_busy(&page, name).is_some_and(|it| it > 0.0), "{name} in {page}");
        }
        for (name, value) in [
            ("container_spec_cpu_quota{", 5_000.0),
            ("container_spec_cpu_period{", 100_000.0),
            ("container_spec_memory_limit_bytes{", 33_554_432.0),
            ("container_oom_events_total{", 0.0),
        ] {
            assert_eq!(of_busy(&page, name), Some(value), "{name} in {page}");
        }
        // The pod as a whole, and its network.
        let pod = &["container=\"\"", "image=\"\"", "namespace=\"default\"", "pod=\"busy\""][..];
        assert!(
            sample(&page, &[&["container_network_transmit_bytes_total{", "interface=\"eth0\""], pod].concat()).is_some_and(|it| it > 0.0)
        );
        let whole = [&["container_cpu_usage_seconds_total{", "cpu=\"total\""], pod].concat();
        assert!(sample(&page, &whole).is_some_and(|it| it > 0.0), "{page}");
        let node = &["id=\"/\"", "pod=\"\""][..];
        for name in ["container_cpu_usage_seconds_total{", "container_memory_working_set_bytes{", "container_fs_limit_bytes{"] {
            assert!(sample(&page, &[&[name], node].concat()).is_some_and(|it| it > 0.0), "{name} in {page}");
        }
        assert!(sample(&page, &["machine_memory_bytes{"]).is_some_and(|it| it > 1e8));
        holds(&page, &["cadvisor_version_info{", "container_scrape_error 0\n", "machine_cpu_cores{"]);

        let page = kubectl.of_node("/metrics/resource");
        check_metrics(&page);
        let labels = "{container=\"main\",namespace=\"default\",pod=\"busy\"} ";
        for name in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"] {
            assert!(sample(&page, &[&format!("{name}{labels}")]).is_some_and(|it| it > 0.0), "{name} in {page}");
        }
        holds(&page, &["\npod_cpu_usage_seconds_total{", "\nnode_cpu_usage_seconds_total ", "\nresource_scrape_error 0\n"]);

        let page = kubectl.of_node("/metrics");
        check_metrics(&page);
        holds(&page, &["kubelet_node_name{node=\"node-1\"} 1\n", "kubelet_running_pods 2\n", "process_start_time_seconds "]);
    });
}

#[test]
fn probes_are_counted_as_long_as_their_pod_is_there() {
    with_pods(|kubectl| {
        kubectl.apply(PODS);
        let probes = || kubectl.of_node("/metrics/probes");
        let count = |page: &str, container: &str, kind: &str, result: &str| {
            let labels = [format!("container=\"{container}\""), format!("probe_type=\"{kind}\""), format!("result=\"{result}\"")];
            sample(page, &["prober_probe_total{", "namespace=\"default\",pod=\"probed\"", &labels[0], &labels[1], &labels[2]])
        };
        kubectl.knarr.eventually("both were asked twice", |_| {
            let page = probes();
            let often = |it: Option<f64>| it.is_some_and(|it| it >= 2.0);
            often(count(&page, "good", "Liveness", "successful")) && often(count(&page, "bad", "Readiness", "failed"))
        });
        let page = probes();
        check_metrics(&page);
        assert_eq!(count(&page, "bad", "Readiness", "successful"), None, "{page}");
        let uid = kubectl.ok("get pod probed -o jsonpath={.metadata.uid}");
        holds(&page, &["prober_probe_total{", &format!("pod_uid=\"{uid}\""), "# TYPE prober_probe_duration_seconds histogram"]);
        let good = "container=\"good\",namespace=\"default\",pod=\"probed\",probe_type=\"Liveness\"";
        let all = sample(&page, &[&format!("prober_probe_duration_seconds_bucket{{{good},le=\"+Inf\"}}")]);
        assert_eq!(all, sample(&page, &[&format!("prober_probe_duration_seconds_count{{{good}}}")]), "{page}");
        assert_eq!(all, count(&page, "good", "Liveness", "successful"), "{page}");
        kubectl.ok("delete pod probed --timeout=60s");
        kubectl.knarr.eventually("nothing is told of a pod that is gone", |_| !probes().contains("probed"));
    });
}

#[test]
fn each_part_of_the_kubelet_needs_its_own_right() {
    cluster(|kubectl| {
        let parts = ["stats", "metrics", "configz", "healthz", "pods", "proxy"];
        let paths = [
            ("/stats/summary", "stats"),
            ("/metrics/cadvisor", "metrics"),
            ("/configz", "configz"),
            ("/healthz", "healthz"),
            ("/pods", "pods"),
        ];
        let address = format!("https://{}", kubectl.ok(ADDRESS));
        for part in parts {
            kubectl.ok(&format!("create serviceaccount {part}"));
            kubectl.ok(&format!("create clusterrole {part} --verb=get --resource=nodes/{part}"));
            kubectl.ok(&format!("create clusterrolebinding {part} --clusterrole={part} --serviceaccount=default:{part}"));
            let own = kubectl.as_account(part, &address);
            for (path, needed) in paths {
                // As upstream: the right to all of the node's API is none to its statistics and metrics.
                let allowed = part == needed || (part == "proxy" && !matches!(needed, "stats" | "metrics"));
                let output = kubectl.output(&format!("get --raw {path} --kubeconfig={own}"));
                assert_eq!(output.status.success(), allowed, "{path} with nodes/{part}: {}", text(&output.stderr));
                if !allowed {
                    holds(
                        &text(&output.stderr),
                        &["Forbidden", &format!("user=system:serviceaccount:default:{part}, verb=get, resource=nodes")],
                    );
                }
            }
        }
        // Through the API server it is the right to nodes/proxy that counts.
        let through = |account: &str| format!("get --raw {NODE}/metrics/cadvisor --as=system:serviceaccount:default:{account}");
        holds(&kubectl.fails(1, &through("metrics")), &["(Forbidden)", "cannot get resource \"nodes/proxy\""]);
        holds(&kubectl.ok(&through("proxy")), &["container_cpu_usage_seconds_total{"]);
        // Nobody is let in without a name.
        let nobody = kubectl.as_account("pods", &address);
        let nobody = kubectl.file("nobody.yaml", &std::fs::read_to_string(&nobody).unwrap().replace("token: ", "token: x"));
        holds(&kubectl.fails(1, &format!("get --raw /pods --kubeconfig={nobody}")), &["You must be logged in to the server"]);
    });
}

/// A Prometheus that reads all that the kubelet tells, with the right that kube-prometheus gives it. (Debian's cannot ask the API for nodes.)
fn start_prometheus(kubectl: &Kubectl<'_>) -> Running {
    kubectl.ok("create serviceaccount prometheus");
    kubectl.ok("create clusterrole prometheus --verb=get --resource=nodes/metrics");
    kubectl.ok("create clusterrolebinding prometheus --clusterrole=prometheus --serviceaccount=default:prometheus");
    let target = kubectl.ok(ADDRESS);
    let token = kubectl.file("prometheus.token", &kubectl.ok("create token prometheus"));
    let authority = kubectl.ok("get configmap kube-root-ca.crt -o jsonpath={.data.ca\\.crt}");
    let authority = kubectl.file("prometheus-ca.crt", &authority);
    let jobs = ["", "/cadvisor", "/probes", "/resource"].map(|part| {
        format!(
            "- job_name: kubelet{part}\n  scheme: https\n  metrics_path: /metrics{part}\n  authorization: {{credentials_file: {token}}}\n  \
             tls_config: {{ca_file: {authority}}}\n  static_configs: [{{targets: ['{target}']}}]\n"
        )
    });
    let config = format!("global: {{scrape_interval: 2s, scrape_timeout: 2s}}\nscrape_configs:\n{}", jobs.concat());
    let config = kubectl.file("prometheus.yml", &config);
    let data = std::path::Path::new(&config).with_file_name("prometheus-data");
    let mut command = Command::new(prometheus("prometheus"));
    command.arg(format!("--config.file={config}")).arg(format!("--storage.tsdb.path={}", data.display()));
    command.arg("--web.listen-address=127.0.0.1:9090").stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// Asks Prometheus: the lines of the answer, empty while it knows nothing.
fn ask(query: &str) -> Vec<String> {
    let mut command = Command::new(prometheus("promtool"));
    let output = command.args(["query", "instant", "http://127.0.0.1:9090", query]).output().unwrap();
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_prometheus_that_knows_nothing_of_knarr_answers_what_dashboards_ask() {
    with_pods(|kubectl| {
        kubectl.apply(PODS);
        let _running = start_prometheus(kubectl);
        // As the dashboards of kubernetes-mixin put it, with shorter times.
        let cpu = r#"sum by (namespace, pod, container) (irate(container_cpu_usage_seconds_total{image!=""}[1m])) > 0.01"#;
        let throttled = r#"sum(increase(container_cpu_cfs_throttled_periods_total{container!=""}[1m])) by (container, pod, namespace)
            / sum(increase(container_cpu_cfs_periods_total[1m])) by (container, pod, namespace) > 0.5"#;
        let memory = r#"max by (pod, container) (container_memory_working_set_bytes{image!="",container="main"}) > 0"#;
        let network = r#"sum(container_network_transmit_bytes_total{namespace="default"}) by (pod) > 0"#;
        let all = r#"count(up == 1)"#;
        let failing = r#"sum by (container, probe_type) (prober_probe_total{result="failed"}) > 1"#;
        let node = r#"sum(machine_memory_bytes) > sum(container_memory_working_set_bytes{id="/"})"#;
        for (query, answer) in [
            (all, "{} => 4 @"),
            (cpu, r#"{container="main", namespace="default", pod="busy"} => "#),
            (throttled, r#"{container="main", namespace="default", pod="busy"} => "#),
            (memory, r#"{container="main", pod="busy"} => "#),
            (network, r#"{pod="probed"} => "#),
            (failing, r#"{container="bad", probe_type="Readiness"} => "#),
            (node, "{} => "),
            ("sum(kubelet_running_containers{container_state=\"running\"})", "{} => 3 @"),
            ("count(pod_memory_working_set_bytes)", "{} => 2 @"),
        ] {
            let mut last = Vec::new();
            kubectl.knarr.eventually(query, |_| {
                last = ask(query);
                last.iter().any(|line| line.starts_with(answer))
            });
        }
    });
}
