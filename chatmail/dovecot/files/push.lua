-- Managed by the chatmail formula. Tells chatmail-metadata of each message that LMTP delivers, for Dovecot 2.3 and 2.4.
-- https://doc.dovecot.org/2.4.1/core/plugins/push_notification_lua.html

function dovecot_lua_notify_begin_txn(user)
  return user
end

-- What an address sent to itself, as clients do to reach their other devices, is pushed to nobody.
function dovecot_lua_notify_event_message_new(user, event)
  -- The entry is not kept; setting it is the news. Clients are refused what lies below vendor.dovecot/pvt: who could set
  -- it, could send what he likes to the notification service. If setting fails, Dovecot logs it and stores the message.
  user:metadata_set("/private/vendor/vendor.dovecot/pvt/messagenew", event.from_address == user.username and "own" or "")
end

-- Dovecot asks for it.
function dovecot_lua_notify_end_txn(user, success)
end
