# docker build --build-arg VERSION=0.1.0 -t relay:0.1.0 .
# The compiler runs on the building machine's own architecture and cross-compiles; BuildKit fills in the two TARGET names.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/relay ./cmd/relay
RUN mkdir -p /out/etc /out/data \
    && echo 'relay:x:65532:65532:relay:/var/lib/relay:/sbin/nologin' > /out/etc/passwd \
    && echo 'relay:x:65532:' > /out/etc/group

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="Nex insight streams into a durable NATS JetStream log and signed webhooks" \
      org.opencontainers.image.source="https://github.com/nex-crm/relay" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/etc/passwd /out/etc/group /etc/
# A new volume mounted here takes over this owner; without it only root could write.
COPY --from=build --chown=65532:65532 /out/data/ /var/lib/relay/
COPY --from=build /out/relay /relay
# By number: Kubernetes cannot tell from a name that it is not root.
USER 65532:65532
EXPOSE 8080 4222
ENTRYPOINT ["/relay"]
CMD ["run", "-c", "/etc/relay/relay.yaml"]
