#!/bin/sh
# The one entry point: makes sure that what the build needs is there, and hands over to `cargo xtask`.
set -eu
cd "$(dirname "$0")"

say() { printf 'x: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# The Debian packages in the given list that are not installed.
missing() {
    grep -v '^#' "$1" | while read -r package _; do
        [ -z "$package" ] || dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$package"
    done
}

install() {
    packages=$(missing "$1")
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "these packages are needed, install them first: apt-get install --no-install-recommends $packages"
        exit 3
    fi
    say "installing $packages"
    # Test programs must not start as services of this machine.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
}

tool() {
    have "$1" || { say "building $1, once"; cargo install --quiet --locked "$1"; }
}

if ! have cargo; then
    say "cargo is needed: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer from https://rustup.rs"
    exit 3
fi

if have apt-get; then
    install build/packages.txt
    case "${1:-help}" in test | bench | images) install crates/testbed/packages.txt ;; esac
elif ! have cc || ! have pkg-config; then
    say "a C compiler, pkg-config and the static libseccomp are needed; see build/packages.txt for their names on Debian"
    exit 3
fi

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
case "${1:-help}" in
test) tool cargo-nextest ;;
check) tool cargo-deny ;;
esac

exec cargo xtask "$@"
