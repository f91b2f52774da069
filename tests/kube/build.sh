#!/bin/bash
# Builds a real API server for the tests: kube-apiserver from Debian's source package, with etcd, into the folder $1.
# Some ten minutes on two cores, 4 GB of disk while it builds, in the folder $2 if one is named, which is then kept.
# Debian bookworm's kubernetes is 1.20.2, built with its Go 1.19.
set -euo pipefail

destination=$(realpath -m "$1")
if [ -n "${2:-}" ]; then
  place=$(realpath -m "$2")
else
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
fi
mkdir -p "$destination" "$place/lists/partial"
cd "$place"

mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
  awk '$2 == "bookworm" && !seen++ { print $1 }')
[ -n "$mirror" ] || { echo "apt knows no packages of Debian bookworm here: run apt-get update there" >&2; exit 1; }
printf '%s\n' "deb-src $mirror bookworm main" "deb $mirror bookworm main" >sources.list
apt=(-qq -o "Dir::Etc::sourcelist=$place/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$place/lists"
  -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update
apt-get "${apt[@]}" source --download-only kubernetes
apt-get "${apt[@]}" download etcd-server golang-1.19-go golang-1.19-src
for package in ./*.deb; do dpkg -x "$package" unpacked; done
cp -rL unpacked/usr/lib/go-1.19 goroot 2>/dev/null || true # its links lead out of what was unpacked
cp -r unpacked/usr/share/go-1.19/. goroot/

mkdir -p gopath/src/k8s.io
tar -xzf kubernetes_*.orig.tar.gz -C gopath/src/k8s.io
mv gopath/src/k8s.io/kubernetes-* gopath/src/k8s.io/kubernetes
export GOROOT=$place/goroot GOPATH=$place/gopath GOCACHE=$place/gocache GOFLAGS= GOPROXY=off CGO_ENABLED=0
export GO111MODULE=off PATH=$place/goroot/bin:$PATH
cd gopath/src/k8s.io/kubernetes

# What upstream's makefile generates before: the types' descriptions, without which the server does not start.
go build -o "$place/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
inputs=$(grep -rlE '^// \+k8s:openapi-gen=true' --include=*.go staging/src/k8s.io pkg vendor/k8s.io |
  grep -vE 'sample|testdata|code-generator' | xargs -n1 dirname | sort -u |
  sed 's#^staging/src/#k8s.io/kubernetes/vendor/#; s#^pkg#k8s.io/kubernetes/pkg#; s#^vendor/#k8s.io/kubernetes/vendor/#' |
  sort -u | paste -sd,)
"$place/openapi-gen" -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
  -h hack/boilerplate/boilerplate.generatego.txt -r "$place/violations" --output-base "$place/gopath/src"

go build -p "$(nproc)" -ldflags '-s -w' -o "$destination/kube-apiserver" ./cmd/kube-apiserver
install "$place/unpacked/usr/bin/etcd" "$destination/etcd"
echo "CKPTRUN_TEST_KUBERNETES=$destination"
