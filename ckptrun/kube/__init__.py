"""What ckptrun tells Kubernetes of a run, and hears from it: Events, conditions, annotations, a Lease.

Optional at run time: without access to the API one warning is said, and everything else works. The official client
package is not used: six kinds of requests with JSON bodies need no models (figures in docs/design/kubernetes.md).
"""
