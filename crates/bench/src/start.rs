//! How long a start takes.

use crate::{Bench, Budget, Figure, Outcome, cluster::Cluster};

/// Starts of each sort.
const STARTS: usize = 5;

/// DESIGN: process start to node Ready, in seconds.
const BUDGET: Budget = Budget::AtMost(0.5);

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut cluster = Cluster::place(bench)?;
        first.push(cluster.up()?.as_secs_f64());
        cluster.stop()?;
        later.push(cluster.up()?.as_secs_f64());
    }
    Ok(vec![
        Figure::median("process start → node Ready, first start", BUDGET, first, "s"),
        Figure::median("process start → node Ready, later start", BUDGET, later, "s"),
    ])
}
