//! A keeper by itself: what `knarr keeper <directory>` is in the product.

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(verb), Some(directory)) if verb == "keeper" => knarr_runtime::keeper_main(directory.as_ref()),
        _ => {
            eprintln!("usage: knarr-keeper-for-tests keeper DIRECTORY");
            std::process::exit(2);
        }
    }
}
