# What runs in the VM: CRATE/TEST, the most seconds it may take, then words for its harness. Sourced by test.sh.
suite() {
    cat <<'END'
runtime/containers 600
runtime/doctor 60
runtime/images 600
net/audit 60
net/doctor 60
net/drain 60
net/dns_process 60
net/isolation 60
net/plan 60
net/ports 60
net/scale 60
net/vips 60
node/live 600
integration/live_hello 600
integration/live_daemon 600
integration/live_verbs 600
integration/live_registry 600
integration/live_streams 600
integration/live_uninstall 600
integration/live_bad_input 600
integration/live_failpoints 600
integration/live_kill_cycles 600
integration/live_full_disk 600
END
}
