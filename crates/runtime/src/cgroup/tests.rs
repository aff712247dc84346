use super::*;
use crate::spec::status::{ContainerStats, Details, DiskStats, Pressure, Throttling};

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

/// Of a group of this version whose files are these.
fn details(v2: bool, files: &[(&str, &str)]) -> (ContainerStats, Details) {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let mounts = || CONTROLLERS.iter().map(|name| ((*name).to_owned(), mount.clone())).collect();
    let kind =
        if v2 { Kind::V2 { mount: mount.clone(), controllers: Vec::new() } } else { Kind::V1 { mounts: mounts(), trackers: Vec::new() } };
    let cgroups = Cgroups { kind, root: PathBuf::from("knarr-1") };
    let group = cgroups.group(Path::new("pod1"));
    let directory = mount.join("knarr-1/pod1");
    fs::create_dir_all(directory.join("c")).unwrap();
    for (file, text) in files {
        fs::write(directory.join(file), text).unwrap();
    }
    (read_stats(&group), read_details(&group))
}

#[test]
fn both_versions_tell_the_same_in_their_own_words() {
    // A process that surely runs.
    let own = format!("{}\n", std::process::id());
    let (used_v1, v1) = details(
        false,
        &[
            ("memory.stat", "cache 1\ntotal_cache 4096\ntotal_mapped_file 2048\ntotal_swap 512\n"),
            ("memory.max_usage_in_bytes", "9000\n"),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("memory.failcnt", "3\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 5000\n"),
            ("cpu.cfs_quota_us", "50000\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.shares", "512\n"),
            ("cpuacct.usage_user", "7000\n"),
            ("cpuacct.usage_sys", "6000\n"),
            ("pids.max", "100\n"),
            ("c/cgroup.procs", &own),
        ],
    );
    let (used_v2, v2) = details(
        true,
        &[
            ("memory.stat", "anon 1\nfile 4096\nfile_mapped 2048\n"),
            ("memory.swap.current", "512\n"),
            ("memory.swap.max", "max\n"),
            ("memory.peak", "9000\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n"),
            ("cpu.stat", "usage_usec 13\nuser_usec 7\nsystem_usec 6\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5\n"),
            ("cpu.max", "50000 100000\n"),
            ("cpu.weight", "20\n"),
            ("pids.max", "100\n"),
            ("io.stat", "0:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
            ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
            ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n"),
            ("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=13\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"),
            ("c/cgroup.procs", &own),
        ],
    );
    assert_eq!((used_v1.memory_swap_bytes, used_v2.memory_swap_bytes), (512, 512));
    assert_eq!((v1.cgroup.as_str(), v1.memory_cache_bytes, v1.memory_mapped_bytes), ("/knarr-1/pod1", 4096, 2048));
    assert_eq!((v1.memory_peak_bytes, v1.memory_swap_limit_bytes, v1.memory_limit_hits, v1.oom_kills), (Some(9000), None, 3, 2));
    let throttling = Throttling { periods: 10, throttled_periods: 4, throttled_ns: 5000 };
    assert_eq!((v1.throttling, v1.cpu_quota_us, v1.cpu_period_us), (Some(throttling), Some(50_000), Some(100_000)));
    assert_eq!((v1.cpu_user_ns, v1.cpu_system_ns, v1.threads_max, v1.processes), (7000, 6000, Some(100), 1));
    assert!(v1.file_descriptors >= 3, "{v1:?}");
    let pressure = [(11, 1), (12, 2), (13, 3)].map(|(some_us, full_us)| Pressure { some_us, full_us });
    let disk = DiskStats { device: "0:0".into(), read_bytes: 1, reads: 3, written_bytes: 2, writes: 4 };
    assert_eq!((&v2.disks[..], v2.pressure), (&[disk][..], Some(pressure)));
    // A weight is coarser than shares.
    assert_eq!((v1.cpu_shares, v2.cpu_shares), (Some(512), Some(500)));
    let but = |it: &Details| Details { cpu_shares: None, disks: Vec::new(), pressure: None, file_descriptors: 0, ..it.clone() };
    assert_eq!(but(&v1), but(&v2));
}

#[test]
fn without_limits_nothing_is_throttled() {
    let v1 = details(false, &[("cpu.cfs_quota_us", "-1\n"), ("cpu.cfs_period_us", "100000\n"), ("pids.max", "max\n")]);
    let v2 = details(true, &[("cpu.max", "max 100000\n"), ("pids.max", "max\n")]);
    for (_, it) in [v1, v2] {
        assert_eq!((it.throttling, it.cpu_quota_us, it.cpu_period_us, it.threads_max), (None, None, Some(100_000), None));
        assert_eq!((it.processes, it.memory_peak_bytes, it.pressure), (0, None, None));
    }
}
