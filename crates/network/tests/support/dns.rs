//! A DNS process by itself: what `knarr dns-keeper <run directory>` is in the product.

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(verb), Some(run_dir)) if verb == knarr_network::dns::KEEPER_VERB => knarr_network::dns::keeper_main(run_dir.as_ref()),
        _ => {
            eprintln!("usage: knarr-dns-for-tests dns-keeper DIRECTORY");
            std::process::exit(2);
        }
    }
}
