"""Lays a Debian 12 machine out as cmdeploy of chatmail/relay does.

Debian's packages are real. Programs of cmdeploy are stand-ins under the names, owners and places
of the real ones: its daemons sleep, and Dovecot knows the same hashes by a passwd-file. Dovecot has
the version number of cmdeploy's own packages, which are Debian's under another number.
"""

import json
import time

# {SHA512-CRYPT} with 5000 rounds, as doveauth writes it; made by `openssl passwd -6`.
ADDRESSES = ("first0001", "second002", "third_0.3")
PASSWORD = "a password of 1.9"
TOKENS = ["token-of-old-form-1", "token-of-old-form-2"]

INSTALL = r"""
set -e
export DEBIAN_FRONTEND=noninteractive
id vmail >/dev/null 2>&1 || useradd --system --user-group --home-dir /home/vmail -s /bin/sh vmail
id iroh >/dev/null 2>&1 || useradd --system --user-group --create-home --shell /bin/sh iroh
install -d -o vmail -g vmail -m 0755 /home/vmail
apt-get -q update
apt-get -q -y install --no-install-recommends openssl unbound dns-root-data opendkim \
    opendkim-tools dovecot-core dovecot-imapd dovecot-lmtpd postfix fcgiwrap nginx \
    libnginx-mod-stream cron dpkg-dev
mkdir -p /tmp/debs && cd /tmp/debs
for name in core imapd lmtpd; do
    apt-get -q download dovecot-$name
    dpkg-deb -R dovecot-${name}_*.deb tree
    version=$(dpkg-deb -f dovecot-${name}_*.deb Version)
    sed -i "s/$version/1:2.3.21+dfsg1-3/" tree/DEBIAN/control
    deb="/root/dovecot-${name}_2.3.21%2Bdfsg1-3_amd64.deb"
    dpkg-deb -b --root-owner-group tree "$deb" >/dev/null
    rm -r tree
done
dpkg -i --force-confold /root/dovecot-*.deb
rm -r /tmp/debs
printf 'Package: dovecot-*\nPin: version *\nPin-Priority: -1\n' > /etc/apt/preferences.d/pin-dovecot
echo 'APT::Install-Recommends "false";' > /etc/apt/apt.conf.d/00InstallRecommends
usermod -a -G opendkim postfix
"""

CONFIGURE = r"""
set -e
D=$1
echo "$D" > /etc/mailname
install -d -o vmail -g vmail -m 0700 /home/vmail/mail "/home/vmail/mail/$D"
install -d -o vmail -g vmail -m 0700 "/home/vmail/mail/$D/pending_notifications"
# keys
opendkim-genkey -b 2048 -d "$D" -s opendkim -D /etc/dkimkeys
chown opendkim:opendkim /etc/dkimkeys/*
live=/var/lib/acme/certs/abc; mkdir -p $live /var/lib/acme/live /var/lib/acme/accounts/le
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 90 -subj "/CN=$D" \
    -addext "subjectAltName=DNS:$D,DNS:mta-sts.$D,DNS:www.$D" \
    -keyout $live/privkey -out $live/fullchain 2>/dev/null
ln -sfn $live "/var/lib/acme/live/$D"
install -D -m 0755 /dev/null /etc/acme/hooks/nginx
# programs
lib=/usr/local/lib/chatmaild
mkdir -p $lib/venv/bin $lib/dist
for program in doveauth lastlogin chatmail-metadata chatmail-expire; do
    install -m 0755 /dev/null $lib/venv/bin/$program
done
for program in filtermail chatmail-turn iroh-relay; do
    install -m 0755 /dev/null /usr/local/bin/$program
done
install -D -m 0755 /dev/null /usr/lib/cgi-bin/newemail.py
printf '0123456789abcdef\n' > /etc/chatmail-version
echo '*/5 * * * * root true' > /etc/cron.d/chatmail-metrics
# units
cd /etc/systemd/system
for unit in doveauth lastlogin chatmail-metadata filtermail filtermail-incoming turnserver; do
    cat > $unit.service <<END
[Service]
ExecStart=/usr/bin/sleep infinity
User=vmail
Restart=always
[Install]
WantedBy=multi-user.target
END
    systemctl enable -q $unit
done
cat > acmetool-redirector.service <<END
[Service]
ExecStart=/usr/bin/python3 -m http.server --directory /run 80
[Install]
WantedBy=multi-user.target
END
for timer in chatmail-expire chatmail-fsreport acmetool-reconcile; do
    printf '[Service]\nType=oneshot\nExecStart=/usr/bin/true\n' > $timer.service
    printf '[Timer]\nOnCalendar=*-*-* 16:20\n[Install]\nWantedBy=timers.target\n' > $timer.timer
    systemctl enable -q $timer.timer
done
for dropin in dovecot.service.d/10_restart postfix@.service.d/10_restart; do
    mkdir -p $(dirname $dropin)
    printf '[Service]\nRestart=always\nRestartSec=30\n' > $dropin.conf
done
ln -sf /dev/null systemd-resolved.service
# daemons
live="/var/lib/acme/live/$D"
cat > /etc/dovecot/dovecot.conf <<END
protocols = imap lmtp
ssl = required
ssl_cert = <$live/fullchain
ssl_key = <$live/privkey
auth_mechanisms = plain
passdb {
  driver = passwd-file
  args = /etc/dovecot/users
}
userdb {
  driver = static
  args = uid=vmail gid=vmail home=/home/vmail/mail/$D/%u
}
first_valid_uid = 1
mail_location = maildir:~
mail_plugins = zlib quota
namespace inbox {
  inbox = yes
}
plugin {
  zlib_save = gz
  quota = maildir:User quota
  quota_rule = *:storage=500M
}
service imap {
  process_limit = 50000
}
service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0660
    user = postfix
    group = postfix
  }
}
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    mode = 0600
    user = postfix
    group = postfix
  }
}
END
touch /etc/dovecot/users /etc/dovecot/auth.conf /etc/dovecot/push_notification.lua
postconf -e myhostname="$D" mydestination= virtual_mailbox_domains="$D" mynetworks=127.0.0.0/8 \
    virtual_transport=lmtp:unix:private/dovecot-lmtp inet_interfaces=all compatibility_level=3.6 \
    smtpd_tls_cert_file=$live/fullchain smtpd_tls_key_file=$live/privkey smtpd_sasl_type=dovecot \
    smtpd_sasl_path=private/auth recipient_delimiter=+
postconf -M submission/inet="submission inet n - y - 5000 smtpd -o smtpd_sasl_auth_enable=yes"
postconf -M submissions/inet="submissions inet n - y - 5000 smtpd -o smtpd_tls_wrappermode=yes \
    -o smtpd_sasl_auth_enable=yes"
cat > /etc/nginx/nginx.conf <<END
load_module modules/ngx_stream_module.so;
user www-data;
events { worker_connections 768; }
http { server { listen 127.0.0.1:8443 default_server; root /var/www/html; } }
stream { server { listen 443; proxy_pass 127.0.0.1:993; } }
END
systemctl daemon-reload
systemctl enable -q acmetool-redirector postfix dovecot nginx opendkim fcgiwrap.socket
systemctl restart doveauth lastlogin chatmail-metadata filtermail filtermail-incoming turnserver
systemctl restart nginx acmetool-redirector chatmail-expire.timer chatmail-fsreport.timer
systemctl restart acmetool-reconcile.timer opendkim fcgiwrap.socket fcgiwrap postfix dovecot
"""

ADDRESS = r"""
set -e
home="/home/vmail/mail/$1/$2@$1"; hash=$(openssl passwd -6 -stdin)
install -d -o vmail -g vmail -m 0700 "$home"
printf '{SHA512-CRYPT}%s' "$hash" | install -o vmail -g vmail -m 0600 /dev/stdin "$home/password"
touch -d '2026-11-20 00:00:00 UTC' "$home/password"
install -o vmail -g vmail -m 0600 /dev/null "$home/enforceE2EEincoming"
printf '%s:{SHA512-CRYPT}%s\n' "$2@$1" "$hash" >> /etc/dovecot/users
"""

INI = """[params]
mail_domain = {domain}
max_user_send_per_minute = 60
max_mailbox_size = 500M
delete_mails_after = 40
password_min_length = 9
passthrough_recipients = echo@{domain}
mailboxes_dir = /home/vmail/mail/{domain}
"""


def lay_out(box):
    """Turn an unconverged box of Debian 12 into such a machine; return its mailboxes' directory."""
    box.run(INSTALL)
    box.run(["sh", "-c", CONFIGURE, "sh", box.domain])
    for name in ADDRESSES:
        box.run(["sh", "-c", ADDRESS, "sh", box.domain, name], input=PASSWORD)
    box.run(["tee", "/usr/local/lib/chatmaild/chatmail.ini"], input=INI.format(domain=box.domain))
    mailboxes = f"/home/vmail/mail/{box.domain}"
    first, second = (f"{name}@{box.domain}" for name in ADDRESSES[:2])
    # An address from before 1.6, and one whose devices registered with an old version.
    box.run(["rm", f"{mailboxes}/{second}/enforceE2EEincoming"])
    write(box, f"{mailboxes}/{first}/metadata.json", json.dumps({"devicetoken": TOKENS}))
    pending = f"{first}\n{int(time.time())}\n{TOKENS[0]}"
    write(box, f"{mailboxes}/pending_notifications/{'0f' * 16}", pending)
    return mailboxes


def write(box, path, content):
    """Write a file of vmail."""
    command = ["install", "-o", "vmail", "-g", "vmail", "-m", "0600", "/dev/stdin", path]
    box.run(command, input=content)


def deliver(box, address, message):
    """Store a message as the machine's own Dovecot does, compressed by gzip."""
    box.run(["doveadm", "save", "-u", address], input=message.decode())
