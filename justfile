# The commands of every day, for `just` (https://just.systems). CONTRIBUTING.md tells more about each.

# Lists the commands.
default:
    @just --list

# Builds the program as a user gets it: target/release/lastgood
build:
    cargo build --release

# Runs the tests, or those whose names contain NAME: just test restore_killed
test *NAME:
    cargo test -- {{ NAME }}

# Runs everything that a change has to pass.
ci:
    .ci/run

# Runs the long tests: random histories for SECONDS, backups beside writers, and everything that three instances can do to each other.
soak SECONDS='600':
    LASTGOOD_SOAK={{ SECONDS }} cargo test --test all model::long -- --exact --ignored --nocapture
    LASTGOOD_SOAK=2000 cargo test --test all sqlite_owners::long -- --exact --ignored --nocapture
    LASTGOOD_SOAK=1000000 cargo test --lib epochs::search::three_instances_lose_nothing_in_a_long_search -- --exact --ignored --nocapture

# Measures against restic, rustic, borg, conserve and tar, in a folder that has 10 GB free.
bench WORK KINDS='app,files,sqlite' TOOLS='tarzstd,restic,rustic,borg,conserve,lastgood': build
    for kind in $(echo {{ KINDS }} | tr , ' '); do [ -d {{ WORK }}/$kind ] || benches/make_data.py $kind {{ WORK }}/$kind; done
    SCRATCH={{ WORK }} benches/peers.py {{ WORK }} --kinds {{ KINDS }} --tools {{ TOOLS }} --lastgood target/release/lastgood

# Builds the image of the Dockerfile without a registry, and tries it, as root: just image --profile release
image *ARGS:
    .ci/image {{ ARGS }}

# Builds the documentation of the library.
docs:
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps

# Formats the code.
fmt:
    cargo fmt

# Looks at the code, and at what it depends on.
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo deny check licenses bans sources

# Makes target/lastgood-ARCHITECTURE-linux.tar.gz: the program, linked statically, for machines without containers.
release PROFILE='dist':
    #!/usr/bin/env bash
    set -euo pipefail
    target="$(rustc -vV | sed -n 's/^host: //p')" name="lastgood-$(uname -m)-linux"
    # A named target keeps the flags away from procedural macros, which cannot be static.
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --profile {{ PROFILE }} --bin lastgood --target "$target"
    rm -rf "target/$name"
    mkdir -p "target/$name"
    strip -o "target/$name/lastgood" "target/$target/{{ PROFILE }}/lastgood"
    cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "target/$name"
    tar -C target -czf "target/$name.tar.gz" "$name"
    ls -l "target/$name.tar.gz"
