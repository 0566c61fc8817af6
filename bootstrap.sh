#!/bin/bash
# Turns a bare Debian 12 or 13 server into a chatmail relay. Run it as root:
#
#     ./bootstrap.sh chat.example.org
#     ./bootstrap.sh --adopt
#
# It installs Salt, copies this formula to /srv/formulas/chatmail, writes a pillar with the mail
# domain to /srv/pillar, and converges. With --adopt, on a machine that cmdeploy of chatmail/relay set
# up, it does not converge: the mail service stays as it is, and docs/adoption.md has the next steps.
# It first checks that the machine can become a relay, and refuses before it changes anything. Running
# it again is safe: it copies the formula of this checkout again, keeps the pillar, and converges
# again.
set -euo pipefail

SALT_VERSION=3008.3 # newer versions need a certifi that some package sources do not have
FORMULA=/srv/formulas/chatmail
FOLDERS=(chatmail _modules _states _runners)
PILLAR=/srv/pillar/chatmail.sls
PILLAR_TOP=/srv/pillar/top.sls
MINION=/etc/salt/minion.d/chatmail.conf
CMDEPLOY=/usr/local/lib/chatmaild/chatmail.ini
# The ports of the relay, and the units whose processes may hold these ports after the first run.
TCP_PORTS=(25 80 143 443 465 587 993)
UDP_PORTS=(3478)
OUR_UNITS='(nginx|dovecot|postfix(@.*)?|coturn|chatmail-.*)\.service'

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DEBIAN_FRONTEND=noninteractive

die() {
    printf 'bootstrap.sh: %s\n' "$@" >&2
    exit 1
}

say() {
    printf '\n== %s\n' "$*"
}

# --- The checks. Nothing is written before all of them have passed.

refuse_without_root() {
    [[ $EUID -eq 0 ]] || die "must run as root: sudo $0 $*"
}

refuse_other_systems() {
    local ID="" VERSION_ID="" PRETTY_NAME="an unknown system"
    # shellcheck disable=SC1091 # not a file of this repository
    [[ ! -r /etc/os-release ]] || source /etc/os-release
    [[ $ID == debian && $VERSION_ID =~ ^(12|13)$ ]] ||
        die "this is $PRETTY_NAME; a relay needs Debian 12 or 13"
    [[ -d /run/systemd/system ]] || die "systemd does not run this machine; a relay needs it"
}

is_ipv4() {
    local octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
    [[ $1 =~ ^$octet(\.$octet){3}$ ]]
}

# Accepts a domain, a domain whose first label starts with _, and an IPv4 address of a host.
is_mail_domain() {
    local label='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
    if is_ipv4 "$1"; then
        [[ ! ${1%%.*} =~ ^(0|127|22[4-9]|2[3-5][0-9])$ ]]
    else
        [[ ${#1} -le 245 && $1 =~ ^_?$label(\.$label)+$ && ! ${1##*.} =~ ^[0-9]+$ ]]
    fi
}

refuse_other_domains() {
    is_mail_domain "$1" || die "\"$1\" is no mail domain. Allowed are:" \
        "  chat.example.org   a domain that points to this machine" \
        "  _chat.example.org  a test domain: its first label starts with _" \
        "  13.12.23.42        a bare IPv4 address"
}

refuse_other_pillars() {
    local present=""
    [[ ! -e $PILLAR ]] || present=$(sed -nE 's/^ +mail_domain: *"?([^" #]+).*/\1/p' "$PILLAR")
    [[ ! -e $PILLAR || ${present,,} == "$1" ]] ||
        die "$PILLAR is there and has mail_domain: ${present:-(none)}, not $1; edit or move it"
    [[ ! -e $PILLAR_TOP ]] || grep -qE '^ *- +"?chatmail"? *$' "$PILLAR_TOP" ||
        die "$PILLAR_TOP is there and does not name chatmail; add it as an item under base: '*'"
}

refuse_machines_of_cmdeploy() {
    [[ ! -e $CMDEPLOY ]] || die "cmdeploy of chatmail/relay set this machine up ($CMDEPLOY is there)." \
        "To take it over in place with all its mail, read docs/adoption.md and run: $0 --adopt"
}

refuse_machines_without_cmdeploy() {
    [[ -r $CMDEPLOY ]] || die "$CMDEPLOY is not there: cmdeploy of chatmail/relay did not set this machine up." \
        "For a new relay, run: $0 MAIL_DOMAIN"
}

refuse_minions() {
    ! systemctl --quiet is-active salt-minion ||
        die "this machine is a minion of a Salt master; let that one apply the formula"
}

# Prints port/protocol, process and pid of every foreign listener on the relay's ports.
foreign_listeners() {
    local protocol=$1 filter sockets address users name pid
    shift
    filter=$(printf ' or sport = :%s' "$@")
    sockets=$(ss --no-header --listening --numeric --processes "--$protocol" "${filter# or }")
    while read -r _ _ _ address _ users; do
        [[ -n $address ]] || continue
        name="" pid=""
        [[ ! $users =~ \(\(\"([^\"]+)\",pid=([0-9]+) ]] ||
            { name=${BASH_REMATCH[1]} pid=${BASH_REMATCH[2]}; }
        [[ -e /etc/chatmail/relay.json && -n $pid ]] &&
            grep -qsE "/$OUR_UNITS(/|\$)" "/proc/$pid/cgroup" && continue
        printf '  %s/%s  %s (pid %s)\n' "${address##*:}" "$protocol" "${name:-unknown}" "${pid:-unknown}"
    done <<<"$sockets"
}

refuse_taken_ports() {
    local found
    command -v ss >/dev/null || die "the program ss is missing: apt install iproute2"
    found=$({
        foreign_listeners tcp "${TCP_PORTS[@]}"
        foreign_listeners udp "${UDP_PORTS[@]}"
    } | sort -nu)
    [[ -z $found ]] || die "other programs hold ports that the relay needs:" "$found" \
        "Stop them for good (systemctl disable --now …) and run this again."
}

# apt-get, which waits for others: apt's own timers hold its locks for minutes after a machine booted.
# apt-get itself waits for dpkg's lock alone.
apt_get() {
    local attempt errors
    for attempt in {1..120}; do
        if { errors=$(LC_ALL=C apt-get -o DPkg::Lock::Timeout=600 "$@" 2>&1 1>&3); } 3>&1; then
            return 0
        fi
        [[ $errors == *"Could not get lock"* ]] || break
        ((attempt > 1)) || say "another program uses apt; waiting until it has finished"
        sleep 5
    done
    printf '%s\n' "$errors" >&2
    return 1
}

# --- Salt: what is there, else its own packages, else pip.

salt_from_packages() {
    apt_get install -qy salt-minion || return
    # Only salt-call is needed; the daemon would look for a master.
    systemctl disable --now salt-minion
}

# Salt gets its own Python environment, which no other program uses. PIP_* variables have effect.
salt_from_pip() {
    local pip=/opt/salt/bin/pip
    apt_get install -qy --no-install-recommends python3-venv
    python3 -m venv --clear /opt/salt
    # Most package sources have one dependency as C source only, and a mail server has no compiler.
    if ! $pip install --quiet "salt==$SALT_VERSION"; then
        say "once more with a compiler, for what is not prebuilt"
        apt_get install -qy --no-install-recommends python3-dev gcc libc6-dev
        $pip install --quiet "salt==$SALT_VERSION"
    fi
    ln -sf /opt/salt/bin/salt-call /usr/local/bin/salt-call
}

install_salt() {
    if salt-call --version >/dev/null 2>&1; then
        return
    fi
    apt_get update -q
    # Who has Salt's official repository among the package sources gets Salt, and its updates, from there.
    if apt-cache show salt-minion >/dev/null 2>&1; then
        salt_from_packages && return
    fi
    say "no package source of this machine has Salt; taking it from pip into /opt/salt"
    salt_from_pip
}

# --- The formula, and Salt's configuration with its place.

place_formula() {
    local new=$FORMULA.new folder
    [[ $checkout != "$FORMULA" ]] || return 0
    rm -rf "$new"
    mkdir -p "$new"
    for folder in "${FOLDERS[@]}"; do
        [[ ! -d $checkout/$folder ]] || cp -r "$checkout/$folder" "$new/"
    done
    chown -R root:root "$new"
    chmod -R u=rwX,go=rX "$new"
    rm -rf "$FORMULA"
    mv "$new" "$FORMULA"
}

place_configuration() {
    mkdir -p "${MINION%/*}" "${PILLAR%/*}"
    cat >"$MINION" <<END
# Written by bootstrap.sh of the chatmail formula: this machine has no master.
file_client: local
file_roots:
  base: [/srv/salt, $FORMULA]
pillar_roots:
  base: [${PILLAR%/*}]
END
    [[ -e $PILLAR_TOP ]] || printf "base:\n  '*':\n    - chatmail\n" >"$PILLAR_TOP"
    [[ -e $PILLAR ]] || cat >"$PILLAR" <<END
# Settings of this relay. pillar.example in the formula's repository explains all settings.
chatmail:
  mail_domain: $1
END
}

bring_salt_and_formula() {
    say "installing Salt"
    install_salt
    say "putting the formula into $FORMULA and the settings into $PILLAR"
    place_formula
    place_configuration "$1"
}

print_next_steps() {
    cat <<END

The relay for $1 is set up.
  its page, with an invitation      https://$1/
  DNS records that it needs         salt-call --local chatmail_dns.zone
  check of these records            salt-call --local chatmail_dns.check
  state of the relay                salt-call --local chatmail_relay.status
  settings                          edit $PILLAR, then
                                    salt-call --local state.apply chatmail
END
}

print_steps_of_adoption() {
    cat <<END

Salt and the formula are on this machine. Its mail service is as before.
  what would happen                 salt-call --local chatmail_adopt.plan
  settings                          $PILLAR: put what \`plan\` prints under \`pillar\` there
  the take-over                     docs/adoption.md
END
}

# Brings what docs/adoption.md needs to a machine of cmdeploy. The domain is that of the machine.
adopt() {
    local domain
    refuse_without_root --adopt
    refuse_other_systems
    refuse_machines_without_cmdeploy
    domain=$(sed -nE 's/^mail_domain *= *([^ #]*).*/\1/p' "$CMDEPLOY")
    refuse_other_domains "$domain"
    refuse_other_pillars "$domain"
    refuse_minions

    bring_salt_and_formula "$domain"
    say "salt-call --local state.apply chatmail.program"
    salt-call --local --state-output=changes --state-verbose=False state.apply chatmail.program ||
        die "the program was not installed; correct what is named above and run this again"
    print_steps_of_adoption
}

set_up() {
    local domain=${1,,}
    domain=${domain%.}
    refuse_without_root "$@"
    refuse_other_systems
    refuse_other_domains "$domain"
    refuse_other_pillars "$domain"
    refuse_minions
    refuse_machines_of_cmdeploy
    refuse_taken_ports

    bring_salt_and_formula "$domain"
    say "salt-call --local state.apply chatmail"
    salt-call --local --state-output=changes --state-verbose=False state.apply chatmail ||
        die "the machine did not converge; correct what is named above and run this again"
    print_next_steps "$domain"
}

main() {
    if [[ $# -eq 1 && $1 == --adopt ]]; then
        adopt
    elif [[ $# -eq 1 && $1 != -* ]]; then
        set_up "$1"
    else
        die "usage: $0 MAIL_DOMAIN, for example $0 chat.example.org" \
            "       $0 --adopt, on a machine that cmdeploy of chatmail/relay set up"
    fi
}

main "$@"
