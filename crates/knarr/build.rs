//! Links the binary at a fixed address, and equal functions once.
//!
//! Every pod has a keeper, a process of this binary. At a variable address the dynamic linker writes some 200,000 addresses into
//! each process as it starts: 2.6 MB that no two keepers share, and a third of the time that a keeper takes to start. At a fixed
//! address they are in the file: 0.3 MB private per keeper, measured. Heap, stack and libraries stay at random addresses.
//!
//! Generic code comes out the same for many types. A linker that can fold it makes the binary 1.4 MB smaller; not every linker can.

use std::{env, fs, io, path::Path, process::Command};

const FOLD: &str = "-Wl,--icf=all";

fn main() -> io::Result<()> {
    println!("cargo:rustc-link-arg-bins=-no-pie");
    if links_with(FOLD)? {
        println!("cargo:rustc-link-arg-bins={FOLD}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

/// Whether the linker that rustc uses for this target takes an argument: one program is linked to see.
fn links_with(argument: &str) -> io::Result<bool> {
    let variable = |name: &str| env::var(name).map_err(io::Error::other);
    let out = variable("OUT_DIR")?;
    let source = Path::new(&out).join("probe.rs");
    fs::write(&source, "fn main() {}\n")?;
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args(["--target", &variable("TARGET")?, "--out-dir", &out]).arg(&source).args(["-C", &format!("link-arg={argument}")]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    Ok(rustc.output()?.status.success())
}
