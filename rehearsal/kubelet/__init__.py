"""A small kubelet: the nodes' pods pull, start, answer probes, fail and end as Kubernetes' do.

addresses.py   what a pod's address leads to, for whoever plays the way to it
behaviour.py   how pods are told to misbehave
container.py   one container's life, by kubelet's rules (pure: time and runtime are given)
pod.py         one pod: its containers, its status, its end
images.py      an image pulled by the pod's own secrets, and unpacked
environment.py a container's variables
probes.py      how a container is asked whether it works
runtime.py     what a container is here: a process, or the pretence of one
logs.py        containerLogs, as the API server asks for them
agent.py       one node's kubelet: it watches, and keeps a thread per pod
"""
