//! `knarr up --demo`, on a machine that reaches nothing.

use std::collections::BTreeSet;

use crate::harness::{Knarr, get, traces};

#[test]
fn the_demonstration_answers_at_the_url_that_is_printed_and_goes_with_the_cluster() {
    knarr_testbed::require_root!();
    knarr_testbed::netns::run(|| {
        let mut knarr = Knarr::new();
        let line = knarr.up_until(&["--demo"], "demonstration at ");
        let url = line.split_whitespace().nth(2).unwrap();
        let address: std::net::SocketAddr = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        knarr.run(&["wait", "deployment/demo", "-n", "knarr-demo", "--for", "condition=Available", "--timeout", "60s"]);
        let mut pods = BTreeSet::new();
        knarr.eventually("all pods have their turn", |_| {
            let page = get((address.ip(), address.port())).expect("it answers");
            pods.extend(page.split("Pod <b>").nth(1).and_then(|rest| rest.split("</b>").next()).map(str::to_owned));
            pods.len() == 3
        });
        let listed = knarr.run(&["get", "pods", "-n", "knarr-demo"]);
        assert!(pods.iter().all(|pod| listed.contains(pod.as_str())), "{pods:?}: {listed}");
        assert!(knarr.run(&["logs", pods.first().unwrap(), "-n", "knarr-demo"]).contains("answer 1"));

        // A second start finds everything there, and says the same.
        knarr.kill();
        assert_eq!(knarr.up_until(&["--demo"], "demonstration at "), line);
        knarr.run(&["down"]);
        assert_eq!(traces(&knarr), Vec::<String>::new());
        knarr.run(&["purge", "--yes"]);
        assert!(!knarr.data_dir().exists());
    })
    .expect("a network namespace can be made");
}
