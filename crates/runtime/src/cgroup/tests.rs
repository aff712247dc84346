use super::*;

fn kind(mountinfo: &str) -> String {
    match find_kind(mountinfo, &|_| "cpu memory pids".to_owned()) {
        Kind::None => "none".to_owned(),
        Kind::V2 { mount, controllers } => format!("v2 {} {}", mount.display(), controllers.join(",")),
        Kind::V1 { mounts, trackers } => {
            let list: Vec<String> = mounts.iter().map(|(name, path)| format!("{name}={}", path.display())).collect();
            format!("v1 {} | {}", list.join(" "), trackers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "))
        }
    }
}

#[test]
fn the_hierarchy_is_told_by_its_mounts() {
    let check = |mountinfo: &str, expected: &str| assert_eq!(kind(mountinfo), expected);
    check("30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw", "v2 /sys/fs/cgroup cpu,memory,pids");
    check("30 23 0:26 / /proc rw - proc proc rw", "none");
    check(
        "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         33 23 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
         34 23 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        "v1 cpu=/sys/fs/cgroup/cpu,cpuacct cpuacct=/sys/fs/cgroup/cpu,cpuacct memory=/sys/fs/cgroup/memory \
         | /sys/fs/cgroup/systemd /sys/fs/cgroup/unified",
    );
}

#[test]
fn limits_are_written_in_the_words_of_each_version() {
    let resources = Resources {
        cpu_shares: Some(1024),
        cpu_quota_us: Some(50_000),
        memory_bytes: Some(64 << 20),
        pids: Some(10),
        ..Resources::default()
    };
    let plan = |v2| plan_limits(&resources, v2).into_iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>();
    assert_eq!(plan(true), ["cpu.weight=39", "cpu.max=50000 100000", "memory.max=67108864", "memory.swap.max=0", "pids.max=10"]);
    assert_eq!(
        plan(false),
        [
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=67108864",
            "pids.max=10"
        ]
    );
}

#[test]
fn shares_span_the_range_of_weights() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(shares_to_weight(shares), weight, "{shares}");
    }
}

#[test]
fn a_missing_statistic_is_zero() {
    assert_eq!(stats::field("a 1\nab 2\n", "ab"), 2);
    assert_eq!(stats::field("a 1\n", "b"), 0);
}
