//! The ranges that addresses of Services come from, as the stored ServiceCIDRs say.
//!
//! A band at the beginning of a range is left for those who ask for a certain address; addresses that nobody chose come from the rest first
//! (KEP-3070), so that a manifest with a fixed address rarely finds it taken.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use knarr_api::{Object, custom::status::set_condition};
use knarr_store::{Collection, Entry, Revision, Snapshot};
use serde_json::{Value, json};

pub(super) const COLLECTION: &str = "networking.k8s.io/servicecidrs";
/// The one that every cluster has, with the range that the server is configured with.
pub(super) const DEFAULT: &str = "kubernetes";
/// Holds a ServiceCIDR until no address depends on it.
pub(super) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

const READY: &str = "Ready";
/// Upstream's words (servicecidrs_controller.go).
const IS_READY: &str = "Kubernetes Service CIDR is ready";
const STILL_USED: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

/// Random tries in each range before the ranges are searched in order. At half full, 16 tries miss once in 65,536.
const TRIES: usize = 16;
/// Addresses of one part of a range that are looked at in order. More are looked at only where an IPv6 range, or one of millions, is as good as full.
const SEARCH_MAX: u128 = 1 << 17;

/// The addresses of one range that Services can have: without those of the network and of broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    net: IpNet,
    first: u128,
    last: u128,
    /// Where the addresses that nobody chose begin.
    dynamic: u128,
}

impl Range {
    /// None where the range has no such address.
    pub(super) fn of(net: IpNet) -> Option<Range> {
        let net = net.trunc();
        let bits = net.max_prefix_len() - net.prefix_len();
        let base = number(net.network());
        // Of the whole of IPv6 the size is one more than fits; the band is as wide as it gets long before.
        let size = 1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX);
        let first = base.checked_add(1)?;
        let last = number(net.broadcast()).checked_sub(net.addr().is_ipv4().into())?;
        // min(max(16, size / 16), 256), as the KEP has it. A band that would leave nothing is no band.
        let band = (size / 16).clamp(16, 256);
        let dynamic = first.checked_add(band).filter(|dynamic| *dynamic <= last).unwrap_or(first);
        (first <= last).then_some(Range { net, first, last, dynamic })
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.net.addr().is_ipv4() && (self.first..=self.last).contains(&number(address))
    }

    fn covers(&self, other: &Range) -> bool {
        self.net.contains(&other.net)
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.net {
            // Numbers of an IPv4 range fit.
            IpNet::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or_default().into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }

    fn random(self) -> impl Iterator<Item = IpAddr> {
        std::iter::repeat_with(move || self.address(fastrand::u128(self.dynamic..=self.last))).take(TRIES)
    }

    /// All addresses from `first` to `last`, beginning anywhere.
    fn search(self, first: u128, last: u128) -> impl Iterator<Item = IpAddr> {
        let start = if first <= last { fastrand::u128(first..=last) } else { first };
        let around = (start..=last).chain(first..start);
        around.take(usize::try_from(SEARCH_MAX).unwrap_or(usize::MAX)).map(move |number| self.address(number))
    }
}

/// An address of one family for which `free` holds: one of those that nobody need choose, unless there are none left in any range.
pub(super) fn any(ranges: &[Range], ipv4: bool, free: impl FnMut(&IpAddr) -> bool) -> Option<IpAddr> {
    let ranges = || ranges.iter().filter(move |range| range.net.addr().is_ipv4() == ipv4);
    let random = ranges().flat_map(|range| range.random());
    let rest = ranges().flat_map(|range| range.search(range.dynamic, range.last));
    let band = ranges().filter(|range| range.first < range.dynamic).flat_map(|range| range.search(range.first, range.dynamic - 1));
    random.chain(rest).chain(band).find(free)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.net.fmt(f)
    }
}

/// The ranges that new addresses may come from, read anew when a ServiceCIDR has changed.
#[derive(Default)]
pub(super) struct Ready {
    /// The ServiceCIDRs that `ranges` was read from.
    seen: Vec<(Arc<str>, Revision)>,
    ranges: Vec<Range>,
}

impl Ready {
    /// Costs a comparison for each ServiceCIDR, of which there are one or two.
    pub(super) fn of(&mut self, snapshot: &Snapshot, collection: &Collection) -> &[Range] {
        let stored = || snapshot.range(collection, "", None);
        let same =
            self.seen.iter().map(|(name, revision)| (&**name, *revision)).eq(stored().map(|entry| (&*entry.key.name, entry.revision)));
        if !same {
            let mut objects: Vec<Object> = stored().filter_map(|entry| read(entry)).filter(is_ready).collect();
            // The cluster's own range first.
            objects.sort_by_key(|object| object.name() != DEFAULT);
            self.ranges.clear();
            for range in objects.iter().flat_map(ranges) {
                if !self.ranges.contains(&range) {
                    self.ranges.push(range);
                }
            }
            self.seen = stored().map(|entry| (entry.key.name.clone(), entry.revision)).collect();
        }
        &self.ranges
    }
}

/// What nobody has said anything of is ready, as upstream.
fn is_ready(range: &Object) -> bool {
    let said = range.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == READY);
    range.deletion_timestamp().is_empty() && said.is_none_or(|condition| condition["status"] == "True")
}

pub(super) fn read(entry: &Entry) -> Option<Object> {
    let object = serde_json::from_slice(&entry.value);
    // Nothing but the API server writes there, after validation.
    object.inspect_err(|error| tracing::error!(key = %entry.key, %error, "stored object is not JSON; it is taken as absent")).ok()
}

pub(super) fn ranges(object: &Object) -> impl Iterator<Item = Range> {
    object.list(&["spec", "cidrs"]).iter().filter_map(|cidr| Range::of(cidr.as_str()?.parse().ok()?))
}

/// The ServiceCIDR that a cluster begins with.
pub(crate) fn default_object(net: IpNet, now: Timestamp) -> Value {
    let mut object = Object::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": DEFAULT },
        "spec": { "cidrs": [net.trunc().to_string()] },
    }))
    .unwrap_or_default();
    complete(&mut object, now);
    object.into_value()
}

/// Gives a ServiceCIDR what each has that is not being deleted; whether anything was missing.
pub(super) fn complete(object: &mut Object, now: Timestamp) -> bool {
    let mut changed = false;
    if !object.finalizers().any(|finalizer| finalizer == FINALIZER) {
        let finalizers: Vec<Value> = object.finalizers().chain([FINALIZER]).map(Value::from).collect();
        object.set(&["metadata", "finalizers"], finalizers.into());
        changed = true;
    }
    let conditions = object.list(&["status", "conditions"]);
    if !conditions.iter().any(|condition| condition["type"] == READY && condition["status"] == "True") {
        set_condition(object, READY, true, "", IS_READY, now);
        changed = true;
    }
    changed
}

/// What shall become of a ServiceCIDR.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Keep,
    Put(Object),
    /// It was held by nothing else.
    Delete,
}

/// `depends`: whether an address is in one of the ranges and, among all, in none of the others.
pub(super) fn next(object: &Object, others: &[Range], depends: impl FnOnce(&dyn Fn(IpAddr) -> bool) -> bool, now: Timestamp) -> Next {
    let mut next = object.clone();
    if object.deletion_timestamp().is_empty() {
        return if complete(&mut next, now) { Next::Put(next) } else { Next::Keep };
    }
    if !object.finalizers().any(|finalizer| finalizer == FINALIZER) {
        return Next::Keep;
    }
    let own: Vec<Range> = ranges(object).filter(|own| !others.iter().any(|other| other.covers(own))).collect();
    let only_here = |address| own.iter().any(|range| range.contains(address)) && !others.iter().any(|range| range.contains(address));
    if !own.is_empty() && depends(&only_here) {
        set_condition(&mut next, READY, false, "Terminating", STILL_USED, now);
        return if next == *object { Next::Keep } else { Next::Put(next) };
    }
    let left: Vec<Value> = object.finalizers().filter(|finalizer| *finalizer != FINALIZER).map(Value::from).collect();
    if left.is_empty() {
        return Next::Delete;
    }
    next.set(&["metadata", "finalizers"], left.into());
    Next::Put(next)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn range(text: &str) -> Range {
        Range::of(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_address_is_given_once_and_the_band_last() {
        let ranges = [range("10.0.0.0/26"), range("10.0.0.0/27"), range("10.9.0.0/28")];
        let mut taken: HashSet<IpAddr> = HashSet::new();
        let given: Vec<IpAddr> = std::iter::from_fn(|| {
            let address = any(&ranges, true, |address| !taken.contains(address))?;
            taken.insert(address);
            Some(address)
        })
        .collect();
        assert_eq!(given.len(), 62 + 14);
        // What the band of one range is may be open in another.
        let last_of_band: IpAddr = "10.0.0.16".parse().unwrap();
        let band = |address: &IpAddr| *address <= last_of_band;
        assert!(given[..60].iter().all(|address| !band(address)) && given[60..].iter().all(band), "{given:?}");
    }

    #[test]
    fn bands_are_those_of_the_kep() {
        for (text, dynamic) in
            [("10.0.0.0/16", "10.0.1.1"), ("10.0.0.0/24", "10.0.0.17"), ("10.0.0.0/29", "10.0.0.1"), ("fd00::/64", "fd00::101")]
        {
            let range = range(text);
            assert_eq!(range.address(range.dynamic).to_string(), dynamic, "{text}");
        }
    }

    #[test]
    fn addresses_of_the_network_and_of_broadcast_are_nobodys() {
        let small = range("10.0.0.0/24");
        for (address, inside) in [("10.0.0.0", false), ("10.0.0.1", true), ("10.0.0.254", true), ("10.0.0.255", false), ("10.0.1.1", false)]
        {
            assert_eq!(small.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(range("fd00::/112").contains("fd00::ffff".parse().unwrap()) && !range("fd00::/112").contains("10.0.0.1".parse().unwrap()));
        assert_eq!([Range::of("10.0.0.1/32".parse().unwrap()), Range::of("10.0.0.0/31".parse().unwrap())], [None, None]);
        for none in ["0.0.0.0/32", "0.0.0.0/31", "255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"] {
            assert_eq!(Range::of(none.parse().unwrap()), None, "{none}");
        }
        assert!(Range::of("0.0.0.0/0".parse().unwrap()).is_some() && Range::of("::/0".parse().unwrap()).is_some());
    }

    fn service_cidr(cidrs: &[&str], deleted: bool, finalizers: &[&str]) -> Object {
        let mut object = json!({"metadata": {"name": "r", "finalizers": finalizers}, "spec": {"cidrs": cidrs}});
        if deleted {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Object::from_value(object).unwrap()
    }

    /// What becomes of a ServiceCIDR when `others` are there and Services have the addresses `used`.
    fn check(object: &Object, others: &[&str], used: &[&str], expected: &str) {
        let others: Vec<Range> = others.iter().map(|other| range(other)).collect();
        let depends = |only_here: &dyn Fn(IpAddr) -> bool| used.iter().any(|address| only_here(address.parse().unwrap()));
        let text = match next(object, &others, depends, Timestamp::UNIX_EPOCH) {
            Next::Keep => "keep".to_owned(),
            Next::Delete => "delete".to_owned(),
            Next::Put(next) => {
                let condition = &next.list(&["status", "conditions"]).first().cloned().unwrap_or_default();
                let words = ["status", "reason"].iter().filter_map(|key| condition[key].as_str());
                words.chain(next.finalizers()).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn a_range_goes_when_no_address_depends_on_it() {
        check(&service_cidr(&["10.0.0.0/24"], false, &[]), &[], &[], &format!("True {FINALIZER}"));
        check(&service_cidr(&["10.0.0.0/24"], false, &["a/b"]), &[], &[], &format!("True a/b {FINALIZER}"));
        let deleted = service_cidr(&["10.0.0.0/24"], true, &[FINALIZER]);
        check(&deleted, &[], &[], "delete");
        check(&deleted, &["10.9.0.0/24"], &["10.9.0.7", "10.0.1.7"], "delete");
        check(&deleted, &["10.9.0.0/24"], &["10.0.0.7"], &format!("False Terminating {FINALIZER}"));
        // As a whole, or as far as it is used, in another.
        check(&deleted, &["10.0.0.0/16"], &["10.0.0.7"], "delete");
        check(&deleted, &["10.0.0.0/25"], &["10.0.0.7"], "delete");
        check(&deleted, &["10.0.0.0/25"], &["10.0.0.7", "10.0.0.200"], &format!("False Terminating {FINALIZER}"));
        check(&deleted, &["10.0.0.0/29"], &["10.0.0.7"], &format!("False Terminating {FINALIZER}"));
        let both = service_cidr(&["10.0.0.0/24", "fd00::/112"], true, &[FINALIZER]);
        check(&both, &["10.0.0.0/16"], &["10.0.0.7"], "delete");
        check(&both, &["10.0.0.0/16"], &["fd00::7"], &format!("False Terminating {FINALIZER}"));
        // What somebody else holds stays.
        check(&service_cidr(&["10.0.0.0/24"], true, &["a/b", FINALIZER]), &[], &[], "a/b");
        check(&service_cidr(&["10.0.0.0/24"], true, &["a/b"]), &[], &["10.0.0.7"], "keep");
    }

    #[test]
    fn what_is_said_once_is_not_said_again() {
        let now = Timestamp::UNIX_EPOCH;
        let mut object = service_cidr(&["10.0.0.0/24"], false, &[]);
        complete(&mut object, now);
        assert_eq!(next(&object, &[], |_| true, now), Next::Keep);
        object.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z".into());
        let Next::Put(terminating) = next(&object, &[], |_| true, now) else { panic!("it is used") };
        assert_eq!(next(&terminating, &[], |_| true, now), Next::Keep);
        assert_eq!((is_ready(&object), is_ready(&terminating)), (false, false));
    }
}
