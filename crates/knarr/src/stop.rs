//! `knarr down` and `knarr purge`.

use std::{fs, io, path::Path};

use knarr_network::{NodeNetwork, dns};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    time::Timespec,
};

use crate::{
    cli::{Place, Purge, UpOptions},
    config::Config,
    place::{self, Held},
    report::Failure,
    up,
};

/// How long a running Knarr may take to stop, in seconds. It only has to close its store; pods are not its to wait for.
const STOP_SECONDS_MAX: i64 = 30;

pub(crate) fn down(place: &Place) -> Result<(), Failure> {
    if !place.data_dir.exists() {
        println!("nothing to stop: {} does not exist", place.data_dir.display());
        return Ok(());
    }
    teardown(&place.data_dir).map(drop)
}

pub(crate) fn purge(purge: &Purge) -> Result<(), Failure> {
    let data_dir = &purge.place.data_dir;
    if !data_dir.exists() {
        println!("nothing to purge: {} does not exist", data_dir.display());
        return Ok(());
    }
    // Whatever a mistyped --data-dir names, only what Knarr made is deleted.
    if !data_dir.join("pki").exists() {
        return Err(Failure::Usage(format!("{} is not a data directory of Knarr: it has no pki; nothing was deleted", data_dir.display())));
    }
    if !purge.yes && !confirmed(data_dir)? {
        return Err(Failure::Usage("not purged".to_owned()));
    }
    let held = teardown(data_dir)?;
    fs::remove_dir_all(&held.data_dir).map_err(|error| Failure::Machine(format!("delete {}: {error}", held.data_dir.display())))?;
    println!("deleted {}", held.data_dir.display());
    Ok(())
}

fn confirmed(data_dir: &Path) -> Result<bool, Failure> {
    eprint!("This deletes the cluster in {} for good. Go on? [y/N] ", data_dir.display());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Ends Knarr and its pods, and removes what it made on the host. The place stays held, so that none starts meanwhile.
fn teardown(data_dir: &Path) -> Result<Held, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Machine("stopping containers needs root: run it with sudo".to_owned()));
    }
    if let Some(pid) = place::holder(data_dir)? {
        stop(pid)?;
        println!("stopped Knarr (process {pid})");
    }
    let held = Held::take(data_dir)?;
    let config = Config::last(&held)?.map_or_else(|| Config::from_options(UpOptions::default()), Ok)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let containers = up::open_runtime(&config, &held).await?;
        let pods = containers.list_sandboxes().len();
        containers.teardown().await?;
        dns::end(&held.run_dir())?;
        let network = NodeNetwork::open(up::net_config(&config, &held, up::node_ip(&config)))?;
        network.teardown().await?;
        knarr_kubelet::tear_down(&held.data_dir)?;
        println!("stopped {pods} pods; their links, rules, mounts and cgroups are gone");
        Ok::<_, Failure>(())
    })?;
    match fs::remove_dir_all(held.run_dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::Machine(format!("delete {}: {error}", held.run_dir().display())))
        }
        _ => Ok(held),
    }
}

/// Asks a process to end and waits until it has.
fn stop(pid: u32) -> Result<(), Failure> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(Failure::Machine(format!("process {pid}, which holds the data directory, is not one of this machine")));
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(Failure::Machine(format!("watch process {pid:?}: {error}"))),
    };
    pidfd_send_signal(&process, Signal::TERM)?;
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    if poll(&mut ended, Some(&Timespec { tv_sec: STOP_SECONDS_MAX, tv_nsec: 0 }))? == 0 {
        return Err(Failure::Machine(format!(
            "process {pid:?} did not stop within {STOP_SECONDS_MAX} s; look at what it waits for, or end it with kill -9 and repeat"
        )));
    }
    Ok(())
}
