# What runs in the VM, sourced by test.sh: CRATE/TEST, the most seconds it may take on a busy machine, then what of it runs every
# day, as words for its harness; `-` is nothing of it. FULL=1 and ONLY run all of it.
#
# Every day is what is different on another kernel or on cgroup v2: limits, devices, confinement, what survives a daemon, links,
# rulesets, a deploy from end to end. Left to FULL=1 is what takes minutes in an emulated machine and asks the same code the same
# questions as on the host: floods of output, long races, registries, hostile archives. `live_build` is not
# there: the machine has no image builder.
suite() {
    cat <<'END'
runtime/containers 1500 --skip races:: --skip hostile::a_million --skip hostile::endless --skip hostile::environments --skip hostile::what_is_no --skip hostile::volumes --skip hostile::working_dir --skip hostile::a_huge --skip hostile::users
runtime/doctor 300
runtime/images 1500 --skip faults:: --skip tls:: --skip gc:: --skip pull:: --skip bombs:: --skip real:: --skip hostile::
net/audit 300
net/doctor 300
net/drain 300
net/firewalls 300
net/dns_process 300
net/isolation 300
net/plan 300
net/ports 300
net/scale 300
net/vips 900
node/live 1500
integration/live_hello 900
integration/live_daemon 900 --skip scaling_in
integration/live_keys 900 keys_do
integration/live_verbs 900 -
integration/live_secrets 900 -
integration/live_depends 900 -
integration/live_networks 900 -
integration/live_registry 900 -
integration/live_streams 900 -
integration/live_uninstall 900 -
integration/live_bad_input 900 -
integration/live_failpoints 1500 -
integration/live_kill_cycles 1500 -
integration/live_full_disk 900 -
END
}
