//! `./x vm`: tests on another kernel. A virtual machine runs Debian's kernel with cgroup v2 alone, on this machine's files beneath a layer in memory,
//! and in it the test binaries of the packages that are named. The processor is emulated, so that it works where no machine can be nested; it is
//! some ten times slower than the host.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cargo_metadata::{Message, TargetKind};

use crate::run::{Outcome, cargo, must, target};

const INIT: &str = include_str!("../vm/init.sh");
const JOB: &str = include_str!("../vm/job.sh");

/// A package without a version of its own, that depends on the newest kernel.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What is loaded before the tests: Knarr never calls modprobe, and this kernel has nearly everything as a module.
const MODULES: &str = "virtio_pci virtiofs overlay bridge veth vxlan nf_tables nf_nat nf_conntrack_netlink nft_chain_nat nft_ct nft_fib_inet \
    nft_hash nft_limit nft_log nft_masq nft_nat nft_numgen nft_redir nft_reject_inet tun loop sctp";

const MEMORY: &str = "6G";
const PROCESSORS: &str = "2";
/// From the server of files being started to its socket.
const SOCKET_TIME_MAX: Duration = Duration::from_secs(10);
/// How the guest ends what it prints; a zero follows if all tests passed.
const VERDICT: &str = "x vm: ";

pub(crate) fn run(packages: &[String]) -> Outcome {
    if packages.is_empty() {
        return Err("name the packages whose tests shall run, such as `./x vm knarr-runtime`".to_owned());
    }
    let tests = tests(packages)?;
    let place = target().join("vm");
    fs::create_dir_all(&place).map_err(|error| format!("make {}: {error}", place.display()))?;
    let kernel = kernel(&place)?;
    let initrd = initrd(&place, &kernel, &tests)?;
    let socket = place.join("files.sock");
    let _files = Files::serve(&socket)?;
    boot(&kernel, &initrd, &socket)
}

/// Directory and path of the test binaries of `packages`, built now.
fn tests(packages: &[String]) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    // The whole workspace, as `./x test` builds it: for a single package the features of dependencies are others, and all would be built anew.
    let mut command = cargo(&["test", "--workspace", "--no-run", "--quiet", "--message-format", "json"]);
    let mut build = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("start cargo: {error}"))?;
    let output = build.stdout.take().ok_or("cargo has no output")?;
    // Those of a library's inside come last: they ask less of the kernel.
    let (mut tests, mut inside) = (Vec::new(), Vec::new());
    for message in Message::parse_stream(BufReader::new(output)) {
        let Ok(Message::CompilerArtifact(artifact)) = message else { continue };
        let Some(directory) = artifact.manifest_path.parent() else { continue };
        let named = packages.iter().any(|package| directory.file_name().is_some_and(|name| format!("knarr-{name}") == *package));
        let is_test = artifact.profile.test && !artifact.target.kind.contains(&TargetKind::Bench);
        if let (true, true, Some(binary)) = (named, is_test, artifact.executable) {
            let list = if artifact.target.kind.contains(&TargetKind::Test) { &mut tests } else { &mut inside };
            list.push((directory.into(), binary.into()));
        }
    }
    tests.append(&mut inside);
    match build.wait() {
        Ok(status) if !status.success() => Err(format!("build the tests: {status}")),
        Err(error) => Err(format!("build the tests: {error}")),
        Ok(_) if tests.is_empty() => Err(format!("there are no tests in {}; packages are named as in Cargo.toml", packages.join(", "))),
        Ok(_) => Ok(tests),
    }
}

/// A kernel of Debian, unpacked.
struct Kernel {
    root: PathBuf,
    version: String,
}

/// Fetched once, and kept below `place`.
fn kernel(place: &Path) -> Result<Kernel, String> {
    let root = place.join("kernel");
    if !root.join("boot").exists() {
        let depends = output(Command::new("apt-cache").args(["depends", "--important", KERNEL]))?;
        let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let package = names.next_back().ok_or(format!("the package {KERNEL} depends on no kernel; is this Debian?"))?;
        let fetched = place.join("fetched");
        fs::create_dir_all(&fetched).map_err(|error| format!("make {}: {error}", fetched.display()))?;
        must(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(&fetched))?;
        let file = first_entry(&fetched)?;
        let half = place.join("kernel.half");
        must(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&half))?;
        fs::rename(&half, &root).map_err(|error| format!("rename {}: {error}", half.display()))?;
    }
    let modules = first_entry(&root.join("lib/modules"))?;
    let version = modules.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Kernel { root, version })
}

fn first_entry(directory: &Path) -> Result<PathBuf, String> {
    let entry = fs::read_dir(directory).ok().and_then(|mut entries| entries.next()?.ok());
    entry.map(|entry| entry.path()).ok_or_else(|| format!("{} is empty", directory.display()))
}

/// The first file system: busybox, the kernel's modules, the scripts.
fn initrd(place: &Path, kernel: &Kernel, tests: &[(PathBuf, PathBuf)]) -> Result<PathBuf, String> {
    let root = place.join("initrd");
    let fault = |path: &Path| {
        let path = path.display().to_string();
        move |error| format!("write {path}: {error}")
    };
    let modules = root.join("lib/modules").join(&kernel.version);
    if !modules.exists() {
        for directory in ["bin", "proc", "sys", "dev", "lib/modules"] {
            fs::create_dir_all(root.join(directory)).map_err(fault(&root))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(fault(&root))?;
        must(Command::new("cp").arg("-r").arg(kernel.root.join("lib/modules").join(&kernel.version)).arg(&modules))?;
        must(Command::new("depmod").arg("--basedir").arg(&root).arg(&kernel.version))?;
    }
    let list: String = tests.iter().map(|(directory, binary)| format!("{} {}\n", directory.display(), binary.display())).collect();
    for (name, text) in [("init", INIT), ("job", &JOB.replace("@TESTS@", list.trim())), ("modules", MODULES)] {
        fs::write(root.join(name), text).map_err(fault(&root))?;
    }
    let archive = place.join("initrd.gz");
    let pack = "chmod 755 init && find . | cpio --quiet --create --format newc | gzip -1 > ../initrd.gz";
    must(Command::new("sh").args(["-c", pack]).current_dir(&root))?;
    Ok(archive)
}

/// The server of this machine's files to the guest.
struct Files(Child);

impl Files {
    fn serve(socket: &Path) -> Result<Self, String> {
        // A socket that is left over would be taken for this one's.
        let _ = fs::remove_file(socket);
        let mut command = Command::new("/usr/lib/qemu/virtiofsd");
        command.arg(format!("--socket-path={}", socket.display())).args(["-o", "source=/", "-o", "cache=auto", "-o", "sandbox=chroot"]);
        let server = command.stderr(Stdio::null()).spawn().map_err(|error| format!("start virtiofsd: {error}"))?;
        let (server, began) = (Self(server), Instant::now());
        while !socket.exists() {
            if began.elapsed() > SOCKET_TIME_MAX {
                return Err("virtiofsd does not open its socket; is this root?".to_owned());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // It ends with its guest; this is for a guest that never began.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, shows what the guest prints, and takes its last line for the result.
fn boot(kernel: &Kernel, initrd: &Path, socket: &Path) -> Outcome {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", PROCESSORS, "-m", MEMORY]);
    command.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")).args(["-numa", "node,memdev=memory"]);
    command.arg("-kernel").arg(kernel.root.join(format!("boot/vmlinuz-{}", kernel.version))).arg("-initrd").arg(initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable cgroup_no_v1=all"]);
    command.arg("-chardev").arg(format!("socket,id=files,path={}", socket.display()));
    command.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host", "-nic", "none", "-no-reboot"]);
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = command.spawn().map_err(|error| format!("start the virtual machine: {error}"))?;
    let output = machine.stdout.take().ok_or("the virtual machine has no output")?;
    let mut verdict = None;
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        println!("{}", line.trim_end());
        verdict = line.trim().strip_prefix(VERDICT).map(str::to_owned).or(verdict);
    }
    machine.wait().map_err(|error| format!("wait for the virtual machine: {error}"))?;
    match verdict.as_deref() {
        Some("0") => Ok(()),
        Some(_) => Err("tests failed in the virtual machine, see above".to_owned()),
        None => Err("the virtual machine ended before its tests".to_owned()),
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
