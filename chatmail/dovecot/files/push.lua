-- Managed by the chatmail formula. Tells chatmail-accounts of each message that LMTP delivers. For Dovecot 2.3 and 2.4.
-- https://doc.dovecot.org/2.4.1/core/plugins/push_notification_lua.html

-- chatmail-accounts watches this directory. It is open to vmail alone, as which LMTP runs.
local delivered = "/run/chatmail-metadata/delivered/"

function dovecot_lua_notify_begin_txn(user)
  return user
end

-- A message that an address sent to itself is marked "own" and causes no push. Clients send such messages to reach
-- their other devices.
function dovecot_lua_notify_event_message_new(user, event)
  local own = event.from_address == user.username and " own" or ""
  local file, _, code = io.open(delivered .. user.username .. " " .. event.uid .. own, "w")
  if file then
    file:close()
  else
    -- The message is stored all the same. The text of the error has the address, so only its number is logged.
    dovecot.i_error("push.lua cannot write in " .. delivered .. " (errno " .. code .. "), so a message wakes no device."
      .. " Does chatmail-accounts run?")
  end
end

-- Dovecot requires this function.
function dovecot_lua_notify_end_txn(user, success)
end
