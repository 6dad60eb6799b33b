# lastgood's image: one static program and the certificates of well-known authorities; no shell, no package manager.
#
#   docker build -t lastgood .
#   docker run --rm -v "$PWD/data:/data" -v "$PWD/backups:/backups" lastgood backup /data --vault /backups
#
# Into another image: COPY --from=lastgood /usr/local/bin/lastgood /usr/local/bin/
#
# Both bases are arguments, so that an image can be built where no registry is reached (`just image`).
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
# The program is linked with glibc statically: glibc resolves names by files and DNS without further libraries since 2.34, and its
# allocator does not slow threads down as musl's does. So nothing is needed below it, and there is nothing else to be updated.
ARG RUN_BASE=scratch

FROM ${BUILD_BASE} AS build
# `dist` is optimised at link time. `release` is built in half of the time.
ARG PROFILE=dist
ENV RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /build
# Dependencies are a layer of their own, which stays as long as the two files do.
COPY Cargo.toml Cargo.lock ./
# A named target keeps the flags away from procedural macros, which cannot be static.
RUN rustc -vV | sed -n 's/^host: //p' > /target \
 && mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && cargo build --locked --profile "$PROFILE" --bin lastgood --target "$(cat /target)"
COPY LICENSE-MIT LICENSE-APACHE ./
COPY src src
# Copied files may be older than what was built of the empty ones.
RUN touch src/main.rs src/lib.rs \
 && cargo build --locked --profile "$PROFILE" --bin lastgood --target "$(cat /target)" \
 && mkdir -p /image/usr/local/bin /image/etc/ssl/certs /image/usr/share/doc/lastgood /image/tmp && chmod 1777 /image/tmp \
 && strip -o /image/usr/local/bin/lastgood "target/$(cat /target)/$PROFILE/lastgood" \
 && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && cp LICENSE-* /image/usr/share/doc/lastgood/

FROM ${RUN_BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lastgood" \
      org.opencontainers.image.description="Keeps the state of apps that live on disposable machines" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# As root, unless told otherwise (`--user`): a backup reads the files of whichever user the app runs as. Any other user works, too.
# The program is process 1 and gets SIGTERM itself.
ENTRYPOINT ["lastgood"]
