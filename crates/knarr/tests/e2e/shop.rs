//! `examples/shop`: nginx before a Python service before redis, served to clients on another host while it changes and while Knarr dies.

use std::{net::IpAddr, sync::Arc};

use crate::harness::{Knarr, containers, get, load::Load, traces};
use knarr_testbed::netns::{self, Netns};

/// Clients at the same time.
const CLIENTS: usize = 4;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/shop.yaml");

/// A shop that serves, and the host that its customers are on.
struct Shop {
    knarr: Knarr,
    outside: Arc<Netns>,
    front: (IpAddr, u16),
}

impl Shop {
    fn open() -> Self {
        let outside = Arc::new(Netns::neighbour().unwrap());
        let mut knarr = Knarr::new();
        knarr.up();
        for image in ["nginx", "python", "redis"] {
            knarr.import(image);
        }
        knarr.must_kubectl(&["apply", "-f", SHOP]);
        for tier in ["redis", "api", "front"] {
            knarr.must_kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--timeout=120s"]);
        }
        let port = knarr.must_kubectl(&["get", "service/front", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
        let front = (netns::HERE.parse().unwrap(), port.parse().unwrap());
        Self { knarr, outside, front }
    }

    fn customers(&self) -> Load {
        let outside = self.outside.clone();
        Load::start(CLIENTS, self.front, move || outside.enter().unwrap())
    }

    fn buy(&self) -> String {
        let front = self.front;
        self.outside.run(move || Ok(get(front))).unwrap().expect("the shop serves")
    }

    fn ready_fronts(&self) -> String {
        self.knarr.must_kubectl(&["get", "deployment/front", "-o", "jsonpath={.status.readyReplicas}"])
    }

    fn rollout_ends(&self, tier: &str) {
        self.knarr.must_kubectl(&["rollout", "status", tier, "--timeout=120s"]);
    }
}

fn with_a_shop(test: fn(Shop)) {
    for image in ["nginx", "python", "redis"] {
        knarr_testbed::image::image(image).expect("the test kit makes the image");
    }
    netns::run(move || test(Shop::open())).expect("a network namespace can be made");
}

#[test]
fn a_shop_is_updated_under_load_and_no_request_fails() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    with_a_shop(|shop| {
        let knarr = &shop.knarr;
        assert!(shop.buy().starts_with("Welcome: visit "), "{}", shop.buy());
        let customers = shop.customers();
        customers.serve(50);

        knarr.must_kubectl(&["set", "image", "deployment/front", "nginx=nginx:2"]);
        knarr.must_kubectl(&["set", "env", "deployment/api", "GREETING=Again"]);
        shop.rollout_ends("deployment/front");
        shop.rollout_ends("deployment/api");
        customers.serve(50);
        // A pod that is ending may still answer for a moment after the rollout is over.
        knarr.eventually("the new greeting is given", |_| shop.buy().starts_with("Again: visit "));

        // An image that is not there never takes the old pods away.
        knarr.must_kubectl(&["set", "image", "deployment/front", "nginx=nginx:broken"]);
        let broken = "{.items[*].status.containerStatuses[0].state.waiting.reason}";
        knarr.eventually("the new pod cannot have its image", |knarr| {
            let reasons = knarr.must_kubectl(&["get", "pods", "-l", "app=front", "-o", &format!("jsonpath={broken}")]);
            reasons.contains("ErrImagePull") || reasons.contains("ImagePullBackOff")
        });
        assert!(!knarr.kubectl(&["rollout", "status", "deployment/front", "--timeout=1s"]).status.success());
        customers.serve(50);
        assert_eq!(shop.ready_fronts(), "3");

        knarr.must_kubectl(&["rollout", "undo", "deployment/front"]);
        shop.rollout_ends("deployment/front");
        let image = knarr.must_kubectl(&["get", "deployment/front", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]);
        assert_eq!((image.as_str(), shop.ready_fronts().as_str()), ("nginx:2", "3"));
        customers.serve(50);
        let (faults, served) = customers.stop();
        assert_eq!(faults, Vec::<String>::new(), "of {served} requests");
    });
}

#[test]
fn a_shop_outlives_kill_9_of_knarr_and_goes_on_being_updated() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    with_a_shop(|mut shop| {
        let before = containers(&shop.knarr);
        let customers = shop.customers();
        customers.serve(50);
        shop.knarr.kill();
        customers.serve(50);
        shop.knarr.up();
        customers.serve(50);
        assert_eq!(containers(&shop.knarr), before, "every pod is adopted, no container restarted");

        shop.knarr.must_kubectl(&["rollout", "restart", "deployment/front"]);
        shop.rollout_ends("deployment/front");
        customers.serve(50);
        let (faults, served) = customers.stop();
        assert_eq!(faults, Vec::<String>::new(), "of {served} requests");
        shop.knarr.eventually("every front is a new one", |knarr| {
            !containers(knarr).iter().any(|pod| pod.0.starts_with("front-") && before.contains(pod))
        });

        shop.knarr.run(&["down"]);
        assert_eq!(traces(&shop.knarr), Vec::<String>::new());
    });
}
