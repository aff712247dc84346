//! The pods' addresses, in parts for nodes.

use ipnet::IpNet;

/// Prefix length of a node's part: 254 pods, or a subnet of IPv6. Upstream's defaults (nodeipam, defaultNodeMaskCIDR*).
const PART_BITS_V4: u8 = 24;
const PART_BITS_V6: u8 = 64;

/// The first part that none of those taken touches. A cluster whose addresses are no more than one part has one node.
pub(super) fn first_free(cluster: IpNet, taken: &[IpNet]) -> Option<IpNet> {
    let touches = |part: &IpNet| taken.iter().any(|other| other.contains(part) || part.contains(other));
    match cluster {
        IpNet::V4(net) => {
            let bits = PART_BITS_V4.max(net.prefix_len());
            net.subnets(bits).ok()?.map(IpNet::V4).find(|part| !touches(part))
        }
        IpNet::V6(net) => {
            let bits = PART_BITS_V6.max(net.prefix_len());
            net.subnets(bits).ok()?.map(IpNet::V6).find(|part| !touches(part))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_touch() {
        fn check(cluster: &str, taken: &str, expected: Option<&str>) {
            let net = |text: &str| text.parse::<IpNet>().expect("a network");
            let taken: Vec<IpNet> = taken.split_whitespace().map(net).collect();
            assert_eq!(first_free(net(cluster), &taken), expected.map(net), "{cluster} without {taken:?}");
        }
        check("10.42.0.0/16", "", Some("10.42.0.0/24"));
        check("10.42.0.0/16", "10.42.0.0/24 10.42.2.0/24", Some("10.42.1.0/24"));
        // A part that somebody gave by hand, larger than ours.
        check("10.42.0.0/16", "10.42.0.0/23", Some("10.42.2.0/24"));
        check("10.42.0.0/23", "10.42.0.0/24 10.42.1.0/24", None);
        check("10.42.7.0/26", "", Some("10.42.7.0/26"));
        check("fd00:42::/56", "fd00:42::/64", Some("fd00:42:0:1::/64"));
    }
}
