"""A real Kubernetes for tests: a control plane without a node, and a whole cluster with one.

1. `programs` finds their programs, or builds them once from the modules in `modules/`.
2. `process` starts each so that it ends with the test, however that ends.
3. `credentials` makes the certificates and the kubeconfig files.
4. `control_plane` puts them together: etcd, kube-apiserver, kube-controller-manager.
5. `client` is how a test asks: the official client library, with manifests in and out.
6. `definitions` are those of other projects.
7. `audit` reads what the API server wrote down of those who asked.
8. `cluster` is what a test without pods gets: namespaces, identities, stop and start; on this
   control plane, or on the cluster that `MAILRELAY_TEST_KUBECONFIG` names.
9. `machine` runs a command in namespaces of its own, where a node may live.
10. `node` is that node, configured by `node_files`; `archive` makes images of single programs.
11. `dns` and `volumes` are what pods need beside it.
12. `node_cluster` is what a test with pods gets: all of that.
"""
