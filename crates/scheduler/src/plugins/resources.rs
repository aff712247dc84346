//! NodeResourcesFit with LeastAllocated, and NodeResourcesBalancedAllocation.

use std::borrow::Cow;

use super::{PlugIn, Rejection, SCORE_MAX};
use crate::cache::NodeState;
use crate::pod::PodInfo;

/// Everything that the pod asks for is still free. All that is short is told, not only the first.
pub(super) fn fit(pod: &PodInfo, state: &NodeState) -> Result<(), Rejection> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    if i64::try_from(state.pods.len()).unwrap_or(i64::MAX) >= state.pods_max {
        reasons.push("Too many pods".into());
    }
    let (asked, free, used) = (&pod.requests, &state.allocatable, &state.requested);
    for (name, asked, free, used) in [
        ("cpu", asked.milli_cpu, free.milli_cpu, used.milli_cpu),
        ("memory", asked.memory, free.memory, used.memory),
        ("ephemeral-storage", asked.ephemeral, free.ephemeral, used.ephemeral),
    ] {
        if asked > 0 && asked > free - used {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    for (name, asked) in &asked.other {
        let of = |amounts: &crate::resources::Resources| amounts.other.get(name).copied().unwrap_or(0);
        if *asked > 0 && *asked > of(free) - of(used) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Rejection { plug_in: PlugIn::NodeResourcesFit, reasons }),
    }
}

/// The mean of what would be left of CPU and memory, in hundredths.
pub(super) fn least_allocated(pod: &PodInfo, state: &NodeState) -> i64 {
    let left = |asked: i64, used: i64, all: i64| match all {
        ..=0 => 0,
        all if asked + used > all => 0,
        all => ((i128::from(all - asked - used) * i128::from(SCORE_MAX)) / i128::from(all)) as i64,
    };
    let cpu = left(pod.scored.milli_cpu, state.scored.milli_cpu, state.allocatable.milli_cpu);
    let memory = left(pod.scored.memory, state.scored.memory, state.allocatable.memory);
    (cpu + memory) / 2
}

/// How near the used shares of CPU and memory would be to each other.
pub(super) fn balanced(pod: &PodInfo, state: &NodeState) -> i64 {
    let share = |asked: i64, used: i64, all: i64| match all {
        ..=0 => 0.0,
        all => ((asked + used) as f64 / all as f64).min(1.0),
    };
    let cpu = share(pod.requests.milli_cpu, state.requested.milli_cpu, state.allocatable.milli_cpu);
    let memory = share(pod.requests.memory, state.requested.memory, state.allocatable.memory);
    // The standard deviation of two numbers is half their distance.
    ((1.0 - (cpu - memory).abs() / 2.0) * SCORE_MAX as f64) as i64
}
