-- Managed by the chatmail formula. Tells chatmail-metadata of each message that LMTP delivers. For Dovecot 2.3 and 2.4.
-- https://doc.dovecot.org/2.4.1/core/plugins/push_notification_lua.html

function dovecot_lua_notify_begin_txn(user)
  return user
end

-- A message that an address sent to itself is marked "own" and causes no push. Clients send such messages to reach
-- their other devices.
function dovecot_lua_notify_event_message_new(user, event)
  -- chatmail-metadata does not store the value: the entry only notifies it. Clients cannot set an entry below
  -- vendor.dovecot/pvt, so no client can cause a push. If this fails, Dovecot logs it and still stores the message.
  user:metadata_set("/private/vendor/vendor.dovecot/pvt/messagenew", event.from_address == user.username and "own" or "")
end

-- Dovecot requires this function.
function dovecot_lua_notify_end_txn(user, success)
end
