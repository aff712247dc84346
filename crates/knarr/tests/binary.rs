//! What the binary itself must be.

/// See build.rs: relocations at start are private memory in each pod's keeper.
#[test]
fn the_binary_needs_no_relocation_at_its_start() {
    let mut head = [0u8; 18];
    let mut file = std::fs::File::open(env!("CARGO_BIN_EXE_knarr")).expect("binary");
    std::io::Read::read_exact(&mut file, &mut head).expect("ELF header");
    let kind = u16::from_le_bytes([head[16], head[17]]);
    const EXECUTABLE: u16 = 2;
    assert_eq!((&head[..4], kind), (&b"\x7fELF"[..], EXECUTABLE));
}
