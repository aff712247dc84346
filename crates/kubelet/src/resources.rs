//! Requests and limits: the pod's quality of service, and the numbers for its cgroups.
//!
//! The arithmetic is upstream's (pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use knarr_runtime::Resources;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// Shares of one CPU, and the least that the kernel takes (cgroup v1, cpu.shares).
const SHARES_PER_CPU: i128 = 1024;
const SHARES_MIN: i128 = 2;
const SHARES_MAX: i128 = 262_144;
/// Length of a period of the CPU bandwidth controller, and the least quota that the kernel takes.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
const PERIOD_US: i128 = PERIOD.as_micros() as i128;
const QUOTA_MIN_US: i128 = 1_000;

type List = BTreeMap<String, Quantity>;

/// Thousandths of a unit; what cannot be read counts as nothing (the API has validated it).
pub(crate) fn milli(quantity: &Quantity) -> i128 {
    parse_nano(&quantity.0).map_or(0, |nano| {
        // Upstream rounds up: asking for less than the smallest unit is still asking.
        (nano + 999_999).div_euclid(1_000_000)
    })
}

/// Whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> i128 {
    parse_nano(&quantity.0).map_or(0, |nano| (nano + 999_999_999).div_euclid(1_000_000_000))
}

/// A quantity in thousand-millionths (the finest that the API knows); `None` if it is not one.
fn parse_nano(text: &str) -> Option<i128> {
    const NANO: i128 = 1_000_000_000;
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value: i128 = 0;
    for digit in whole.bytes() {
        value = value.checked_mul(10)?.checked_add(i128::from(digit.checked_sub(b'0')?))?;
    }
    value = value.checked_mul(NANO)?;
    let mut place = NANO;
    for digit in fraction.bytes().take(9) {
        place /= 10;
        value = value.checked_add(place * i128::from(digit.checked_sub(b'0')?))?;
    }
    let value = match suffix {
        "" => value,
        "n" => value / NANO,
        "u" => value / 1_000_000,
        "m" => value / 1_000,
        "k" => value.checked_mul(1_000)?,
        "M" => value.checked_mul(1_000_000)?,
        "G" => value.checked_mul(1_000_000_000)?,
        "T" => value.checked_mul(1_000_000_000_000)?,
        "P" => value.checked_mul(1_000_000_000_000_000)?,
        "E" => value.checked_mul(1_000_000_000_000_000_000)?,
        "Ki" => value.checked_mul(1 << 10)?,
        "Mi" => value.checked_mul(1 << 20)?,
        "Gi" => value.checked_mul(1 << 30)?,
        "Ti" => value.checked_mul(1 << 40)?,
        "Pi" => value.checked_mul(1 << 50)?,
        "Ei" => value.checked_mul(1 << 60)?,
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { value / factor } else { value.checked_mul(factor)? }
        }
    };
    Some(if negative { -value } else { value })
}

fn requests(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

fn limits(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.limits.as_ref()
}

fn of(list: Option<&List>, name: &str) -> Option<i128> {
    list?.get(name).map(|it| match name {
        "cpu" => milli(it),
        _ => units(it),
    })
}

/// What a container asks for: its request, or else its limit.
fn asked(container: &Container, name: &str) -> Option<i128> {
    of(requests(container), name).or_else(|| of(limits(container), name))
}

/// What the containers and sidecars of a pod ask for together, in whole units.
pub(crate) fn asked_by_pod(spec: &PodSpec, name: &str) -> u64 {
    let sidecars = (spec.init_containers.iter().flatten()).filter(|it| crate::pod::plan::is_sidecar(it));
    let sum: i128 = spec.containers.iter().chain(sidecars).filter_map(|it| asked(it, name)).sum();
    u64::try_from(sum).unwrap_or(0)
}

/// The pod's class, from the CPU and memory of all its containers and, where given, of the pod itself.
pub(crate) fn qos(spec: &PodSpec) -> Qos {
    let whole = spec
        .resources
        .as_ref()
        .filter(|it| it.requests.as_ref().is_some_and(|list| !list.is_empty()) || it.limits.as_ref().is_some_and(|list| !list.is_empty()));
    if let Some(resources) = whole {
        let guaranteed = ["cpu", "memory"].iter().all(|name| {
            let limit = of(resources.limits.as_ref(), name).filter(|it| *it > 0);
            limit.is_some() && of(resources.requests.as_ref(), name).or(limit) == limit
        });
        return if guaranteed { Qos::Guaranteed } else { Qos::Burstable };
    }
    let mut any = false;
    let mut guaranteed = true;
    let all = (spec.containers.iter()).chain(spec.init_containers.iter().flatten());
    for container in all {
        for name in ["cpu", "memory"] {
            let limit = of(limits(container), name).filter(|it| *it > 0);
            let request = of(requests(container), name).filter(|it| *it > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

fn shares(milli_cpu: i128) -> u64 {
    let shares = (milli_cpu * SHARES_PER_CPU / 1000).clamp(SHARES_MIN, SHARES_MAX);
    u64::try_from(shares).unwrap_or(2)
}

fn quota_us(milli_cpu: i128) -> i64 {
    i64::try_from((milli_cpu * PERIOD_US / 1000).max(QUOTA_MIN_US)).unwrap_or(i64::MAX)
}

/// The limits of one container's cgroup.
pub(crate) fn of_container(container: &Container) -> Resources {
    let cpu_limit = of(limits(container), "cpu").filter(|it| *it > 0);
    Resources {
        cpu_shares: Some(shares(asked(container, "cpu").unwrap_or(0))),
        cpu_quota_us: cpu_limit.map(quota_us),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US as u64),
        memory_bytes: (of(limits(container), "memory").filter(|it| *it > 0)).and_then(|it| u64::try_from(it).ok()),
        ..Resources::default()
    }
}

/// Whether the container's `resizePolicy` wants a restart for what differs between `now` and its limits.
pub(crate) fn restarts_on_resize(container: &Container, now: &Resources) -> bool {
    let wanted = of_container(container);
    container.resize_policy.iter().flatten().filter(|it| it.restart_policy == "RestartContainer").any(|it| {
        match it.resource_name.as_str() {
            "cpu" => (wanted.cpu_shares, wanted.cpu_quota_us) != (now.cpu_shares, now.cpu_quota_us),
            "memory" => wanted.memory_bytes != now.memory_bytes,
            _ => false,
        }
    })
}

/// Whether the container's `resizePolicy` wants a restart where the pod's limits change and bound it alone, as it has none of its own.
pub(crate) fn restarts_with_pod(container: &Container, now: &Resources, wanted: &Resources) -> bool {
    let bound = |name: &str| of(limits(container), name).is_none();
    container.resize_policy.iter().flatten().filter(|it| it.restart_policy == "RestartContainer").any(|it| {
        bound(&it.resource_name)
            && match it.resource_name.as_str() {
                "cpu" => now.cpu_quota_us != wanted.cpu_quota_us,
                "memory" => now.memory_bytes != wanted.memory_bytes,
                _ => false,
            }
    })
}

/// The limits of the pod's own cgroup: the sums over its containers, a limit only where every container has one.
pub(crate) fn of_pod(spec: &PodSpec) -> Resources {
    let own = spec.resources.as_ref();
    let sidecars = || (spec.init_containers.iter().flatten()).filter(|it| crate::pod::plan::is_sidecar(it));
    let sum = |get: &dyn Fn(&Container) -> Option<i128>| -> i128 {
        let running: i128 = spec.containers.iter().chain(sidecars()).filter_map(get).sum();
        let init = (spec.init_containers.iter().flatten()).filter_map(get).max();
        running.max(init.unwrap_or(0))
    };
    let all = |get: &dyn Fn(&Container) -> Option<i128>| -> Option<i128> {
        let every = spec.containers.iter().chain(sidecars()).all(|it| get(it).is_some());
        every.then(|| sum(get))
    };
    let cpu = of(own.and_then(|it| it.requests.as_ref()), "cpu").unwrap_or_else(|| sum(&|it| asked(it, "cpu")));
    let cpu_limit = of(own.and_then(|it| it.limits.as_ref()), "cpu").or_else(|| all(&|it| of(limits(it), "cpu").filter(|n| *n > 0)));
    let memory = of(own.and_then(|it| it.limits.as_ref()), "memory").or_else(|| all(&|it| of(limits(it), "memory").filter(|n| *n > 0)));
    let overhead = |name| of(spec.overhead.as_ref(), name).unwrap_or(0);
    Resources {
        cpu_shares: Some(shares(cpu + overhead("cpu"))),
        cpu_quota_us: cpu_limit.map(|it| quota_us(it + overhead("cpu"))),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US as u64),
        memory_bytes: memory.and_then(|it| u64::try_from(it + overhead("memory")).ok()),
        ..Resources::default()
    }
}

/// Where the pod's cgroup lies below the node's: guaranteed pods at the top, the others below their class.
pub(crate) fn cgroup_parent(spec: &PodSpec, uid: &str) -> String {
    match qos(spec) {
        Qos::Guaranteed => format!("pod{uid}"),
        Qos::Burstable => format!("burstable/pod{uid}"),
        Qos::BestEffort => format!("besteffort/pod{uid}"),
    }
}

/// Upstream's oom_score_adj: guaranteed −997, best effort 1000, burstable the lower the more memory it asked for.
pub(crate) fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory: u64) -> i32 {
    const CRITICAL_PRIORITY: i32 = 2_000_000_000;
    if spec.priority.is_some_and(|it| it >= CRITICAL_PRIORITY) {
        return -997;
    }
    match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let asked = asked(container, "memory").unwrap_or(0);
            let capacity = i128::from(node_memory.max(1));
            let adjust = 1000 - (1000 * asked) / capacity;
            i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The value of a `resourceFieldRef`: the limit (or what the node has), the request, divided and rounded up.
pub(crate) fn field(container: &Container, resource: &str, divisor: Option<&Quantity>, allocatable: &List) -> Option<String> {
    let (kind, name) = resource.split_once('.')?;
    let find = |list: Option<&List>| list.and_then(|it| it.get(name)).and_then(|it| parse_nano(&it.0));
    let value = match kind {
        "limits" => find(limits(container)).or_else(|| find(Some(allocatable)))?,
        "requests" => find(requests(container)).or_else(|| find(limits(container))).unwrap_or(0),
        _ => return None,
    };
    let divisor = divisor.and_then(|it| parse_nano(&it.0)).filter(|it| *it > 0).unwrap_or(1_000_000_000);
    Some(((value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
