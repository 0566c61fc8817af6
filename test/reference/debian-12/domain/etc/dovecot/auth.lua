-- Managed by the chatmail formula. Logins and mailboxes, for Dovecot 2.3 and 2.4 alike.
-- https://doc.dovecot.org/latest/core/config/auth/databases/lua.html
--
-- An address is a directory with a file `password`. For an address without this file, the script asks
-- the accounts service, which may create the address. All other logins run no Python.
-- Errors are logged by dovecot.i_error, because the log functions of the request add the client's IP.

local MAILBOXES = "/home/vmail/mail/chat.example.org"
local DOMAIN = "chat.example.org"
local ACCOUNTS = "http://127.0.0.1:3461/create"
local MAX_LOCAL_PART = 64 -- RFC 5321, section 4.5.3.1.1
local ENOENT = 2 -- errno(3)

local auth = dovecot.auth
local http_client

function script_init()
  http_client = dovecot.http.client({ timeout = 10000, max_attempts = 1 })
  return 0
end

-- Returns whether a name may become part of a path: lower case, one @, our domain, no "..".
-- The accounts service checks the length of a new name. Old addresses may have another length, because
-- the limits can change.
local function is_address(name)
  local local_part, domain = name:match("^([a-z0-9._-]+)@([^@]+)$")
  return local_part ~= nil and domain == DOMAIN
    and #local_part <= MAX_LOCAL_PART and not local_part:find("..", 1, true)
end

local function home_of(address)
  return MAILBOXES .. "/" .. address
end

-- Returns the stored hash, or nil and one of "unknown", "blocked", "unreadable".
local function stored_hash(address)
  local file, message, code = io.open(home_of(address) .. "/password", "r")
  if not file then
    if code == ENOENT then return nil, "unknown" end
    dovecot.i_error("nobody can log in there: " .. message)
    return nil, "unreadable"
  end
  local hash = file:read("l")
  file:close()
  -- Dovecot would take a text without {SCHEME} for the password itself.
  if not hash or not hash:match("^{[%w.-]+}%S") then return nil, "blocked" end
  return hash
end

-- Asks for a new address; returns "created" if this password made it, "exists" if another login did, or nil.
-- The client's IP counts for the limit of its network. It is not stored with the address.
-- The request has no body, because 2.3 would send `Expect: 100-continue` with one. The password is in a
-- header, because a URL may be logged.
local function create(address, password, client)
  local request = http_client:request({ url = ACCOUNTS, method = "POST" })
  request:add_header("X-Address", address)
  request:add_header("X-Password", (password:gsub("[^%w]", function(char)
    return ("%%%02X"):format(char:byte())
  end)))
  request:add_header("X-Real-IP", client or "")
  local status = request:submit():status()
  if status == 201 then return "created" end
  if status == 200 then return "exists" end
  -- The service itself logs the reason of 403, 429 and 503.
  if status ~= 403 and status ~= 429 and status ~= 503 then
    dovecot.i_error("no new addresses: chatmail-accounts does not answer, status " .. status)
  end
end

-- PASSDB_RESULT_INTERNAL_FAILURE ("try again later") would fit an address that cannot be created now.
-- It is not used, because Dovecot logs it with address and IP, and the relay keeps no such pair.
function auth_password_verify(request, password)
  local address = request.user
  if not is_address(address) then return auth.PASSDB_RESULT_USER_UNKNOWN, "" end
  local hash, problem = stored_hash(address)
  if problem == "unknown" then
    local result = create(address, password, request.remote_ip)
    -- The service has just made the hash from this password. To verify it would take as long as to make it.
    if result == "created" then return auth.PASSDB_RESULT_OK, {} end
    if result == "exists" then hash = stored_hash(address) end
  end
  if not hash then return auth.PASSDB_RESULT_USER_UNKNOWN, "" end
  if request:password_verify(hash, password) == 1 then return auth.PASSDB_RESULT_OK, {} end
  return auth.PASSDB_RESULT_PASSWORD_MISMATCH, ""
end

-- Returns where the mail of an address is. Dovecot asks after each login and for each recipient, whose
-- address may be in upper case. A blocked address gets no mail, because nobody would read it.
function auth_userdb_lookup(request)
  local address = request.user:lower()
  if not is_address(address) then return auth.USERDB_RESULT_USER_UNKNOWN, "" end
  local hash, problem = stored_hash(address)
  if hash then
    local home = home_of(address)
    return auth.USERDB_RESULT_OK, { user = address, home = home, uid = "vmail", gid = "vmail" }
  end
  -- This may be a fault of the disk, so Postfix keeps the mail and tries again.
  if problem == "unreadable" then return auth.USERDB_RESULT_INTERNAL_FAILURE, "" end
  return auth.USERDB_RESULT_USER_UNKNOWN, ""
end
