#!/bin/sh
# Brings the keys of the farm and of the machine to a guest whose first boot is over: cloud-init takes them at that one only.
# Runs at each boot before anybody can log in, and does nothing while the keys are the same.
set -eu
umask 077
instance=/var/lib/cloud/instance
known=$instance/cascina-keys

cat >"$known.new" <<'END'
@KEYS@
END

# A key that was given before, and is neither given any more nor the user-data's own, is taken out of every account.
withdraw() {
    while read -r key; do
        if grep -qsF -e "$key" "$known.new" "$instance/user-data.txt"; then continue; fi
        cut -d: -f6 /etc/passwd | sort -u | while read -r home; do
            keys=$home/.ssh/authorized_keys
            if [ -f "$keys" ] && grep -qF -e "$key" "$keys"; then
                grep -vF -e "$key" "$keys" >"$known.left" || true
                cat "$known.left" >"$keys"
            fi
        done
    done <"$known"
}

if [ -e "$instance/sem/config_ssh" ] && ! cmp -s "$known" "$known.new"; then
    if [ -e "$known" ]; then withdraw; fi
    # cloud-init's own module knows the accounts; the host keys are left as they are.
    printf '%s\n' 'ssh_deletekeys: false' 'ssh_genkeytypes: []' >"$known.cfg"
    CLOUD_CFG=$known.cfg cloud-init single --name ssh --frequency always
fi
mv "$known.new" "$known"
rm -f "$known.left" "$known.cfg"
