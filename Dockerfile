# imgd's own image, for an imgd whose NATS, registry and BuildKit run elsewhere. `docker build .` makes it, and so does imgd
# itself (integration/selfbuild_test.go), which sets the build args. How to run it: docs/install.md.

FROM golang:1.26-alpine AS build
WORKDIR /src
COPY . .
ARG VERSION=devel
ARG COMMIT=unknown
ARG DATE=unknown
ARG LDFLAGS="-s -w -X main.version=${VERSION} -X main.commit=${COMMIT} -X main.date=${DATE}"
# BuildKit dates what the image says of itself with it.
ARG SOURCE_DATE_EPOCH
# The caches keep downloads and compiled packages, so that only a machine's first build is slow.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags "${LDFLAGS}" -o /out/ ./cmd/...

FROM alpine:3.23
# git reads the repositories, over https with the certificates or through ssh. The number of the user is fixed, so that
# whoever gives imgd a volume knows whose it must be; the line in passwd is what ssh asks for.
RUN apk add --no-cache ca-certificates git openssh-client-default && \
    echo 'imgd:x:65532:65532:imgd:/var/lib/imgd:/sbin/nologin' >>/etc/passwd && \
    echo 'imgd:x:65532:' >>/etc/group && \
    mkdir -p /var/lib/imgd && chown 65532:65532 /var/lib/imgd
COPY --from=build /out/ /usr/local/bin/
LABEL org.opencontainers.image.title="imgd" \
      org.opencontainers.image.description="Container image build-and-publish daemon" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
VOLUME /var/lib/imgd
EXPOSE 7070
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m CMD ["imgd", "health"]
ENTRYPOINT ["imgd"]
CMD ["serve"]
