"""A real Kubernetes API server for tests: etcd, kube-apiserver, kube-controller-manager, no node.

1. `programs` finds their programs, or builds them once from the modules in `modules/`.
2. `process` starts each so that it ends with the test, however that ends.
3. `credentials` makes the certificates and the kubeconfig files.
4. `control_plane` puts them together on loopback.
5. `client` is how a test asks: the official client library, with manifests in and out.
6. `audit` reads what the API server wrote down of those who asked.
7. `cluster` is what a test gets: namespaces, identities, stop and start; on this control plane,
   or on the cluster that `MAILRELAY_TEST_KUBECONFIG` names.
"""
