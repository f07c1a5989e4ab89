# Last part of init.sh for guests with systemd as process 1. The agent is a unit without dependencies, so that it
# answers before anything else is up. All that Debian would start besides is left out of the guest's own copy of the
# system: each program costs half a second here. Units that a test starts find the targets they depend on, empty.
units=/etc/systemd/system
rm -rf /usr/lib/systemd/system-generators $units/*
for wants in /usr/lib/systemd/system/*.wants; do
    case $wants in
        */sockets.target.wants) find "$wants" -type l ! -name 'systemd-journald*' -delete ;;
        *) rm -rf "$wants" ;;
    esac
done
mkdir -p $units /var/log/journal
cat > $units/lab.target << END
[Unit]
Description=A lab guest
Requires=basic.target lab-agent.service
After=basic.target
AllowIsolate=yes
END
cat > $units/lab-agent.service << END
[Unit]
Description=The lab's agent
DefaultDependencies=no
[Service]
ExecStart=$agent
Environment=HOME=/root
StandardInput=null
StandardOutput=null
StandardError=null
KillMode=process
TasksMax=infinity
OOMScoreAdjust=-1000
END
for noise in tmp.mount systemd-journal-flush.service getty.target; do ln -s /dev/null $units/$noise; done
exec env -i PATH="$PATH" container=vmguard-lab /lib/systemd/systemd --unit=lab.target --show-status=no --log-target=journal
