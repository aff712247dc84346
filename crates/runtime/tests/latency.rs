//! How long a pod takes, step by step. Run by hand on a quiet machine, for the numbers of SPECIFICATION.md:
//! `cargo nextest run --release -p knarr-runtime --run-ignored only latency --no-capture`.

mod support;

use std::time::{Duration, Instant};

use support::{Node, on_a_node};

const ROUNDS: usize = 20;

#[test]
#[ignore = "a measurement, not a check"]
fn latency_of_a_pod() {
    on_a_node("latency_of_a_pod", async |node: Node| {
        let names = ["sandbox", "create", "start", "exec", "remove"];
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); names.len()];
        for round in 0..ROUNDS {
            let (pod, container) = (format!("pod{round}"), format!("c{round}"));
            let mut last = Instant::now();
            let mut lap = |step: usize| {
                times[step].push(last.elapsed());
                last = Instant::now();
            };
            node.sandbox(&pod).await;
            lap(0);
            node.runtime.create_container(&pod, node.shell(&container, "sleep 1000")).await.expect("create");
            lap(1);
            node.runtime.start_container(&container).await.expect("start");
            lap(2);
            node.exec(&container, "true").await;
            lap(3);
            node.runtime.remove_sandbox(&pod).await.expect("remove");
            lap(4);
        }
        for (name, times) in names.iter().zip(&mut times) {
            times.sort();
            println!("{name:8} median {:6.2} ms  worst {:6.2} ms", ms(times[ROUNDS / 2]), ms(times[ROUNDS - 1]));
        }
    });
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
