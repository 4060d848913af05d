-- Shows rumormill's gossip in Wireshark and tshark: headers always, and the messages of a plaintext pool.
-- Copy it to the folder of personal Lua plugins (Help > About > Folders), or: tshark -X lua_script:rumormill.lua -r FILE
-- docs/reference/wire.md describes the format. Packets from or to UDP port 7946 are tried; "Decode As" adds other ports.

local HEADER_BYTES, TAG_BYTES = 34, 16
local LAST_COUNTER = UInt64(0, 256)  -- 2^40
local MAX_DEPTH = 16

local PLAIN, PAIR, STRANGER = 0x11, 0x10, 0x12
local KINDS = {
  [PAIR] = "pair", [PLAIN] = "plain", [STRANGER] = "join",
  [0x1e] = "notice of a sealed pool", [0x1f] = "notice of a plaintext pool",
}
-- A message begins with its number. Its name and its fields follow in order.
local MESSAGES = {
  [1] = { "Heartbeat", "digest", "sent", "flags" },
  [2] = { "Ping", "nonce" },
  [3] = { "Ack", "nonce" },
  [4] = { "PingRequest", "subject", "sealed" },
  [5] = { "IndirectAck", "subject", "age" },
  [16] = { "Alive", "record", "signature" },
  [17] = { "Suspect", "subject", "incarnation" },
  [18] = { "Leave", "subject", "incarnation", "signature" },
  [19] = { "LeaveAck", "subject", "incarnation" },
  [20] = { "VoteMessage", "subject", "incarnation", "vote" },
  [21] = { "Dead", "subject", "incarnation", "votes" },
  [22] = { "Tombstone", "name", "generation", "instance", "incarnation", "liveness", "age", "leave_signature" },
  [32] = { "Join", "name", "nonce", "padding" },
  [33] = { "Challenge", "nonce", "cookie", "instances", "ends" },
  [34] = { "Hello", "nonce", "cookie", "record", "signature" },
  [35] = { "Welcome", "nonce", "digest", "members", "records" },
  [36] = { "UnknownSender", "mark" },
  [37] = { "NameInUse", "name", "instance" },
  [48] = { "SyncDigest", "buckets" },
  [49] = { "SyncOffer", "part", "parts", "buckets", "entries" },
  [50] = { "SyncRequest", "member_ids" },
  [51] = { "SyncBusy" },
  [64] = { "PolicyMessage", "record", "signature" },
  [80] = { "KeyRingUpdate", "version", "keys" },
  [81] = { "KeyRingReport", "version", "digest", "names", "ask" },
}
local NAMES = {}
for number, message in pairs(MESSAGES) do NAMES[number] = message[1] end

local rumormill = Proto("rumormill", "rumormill gossip")
local fields = {
  kind = ProtoField.uint8("rumormill.kind", "Kind", base.HEX, KINDS),
  key = ProtoField.uint8("rumormill.key_id", "Group key", base.HEX),
  label = ProtoField.bytes("rumormill.label", "Cluster label, hashed"),
  sender = ProtoField.bytes("rumormill.sender", "Sender"),
  receiver = ProtoField.bytes("rumormill.receiver", "Receiver"),
  counter = ProtoField.uint64("rumormill.counter", "Counter"),
  sealed = ProtoField.bytes("rumormill.sealed", "Sealed payload"),
  tag = ProtoField.bytes("rumormill.tag", "Authentication tag"),
  generation = ProtoField.uint64("rumormill.generation", "Generation"),
  incarnation = ProtoField.uint64("rumormill.incarnation", "Incarnation"),
  message = ProtoField.uint8("rumormill.message", "Message", base.DEC, NAMES),
  load = ProtoField.string("rumormill.load", "Load and requests"),
}
rumormill.fields = fields
local damaged = ProtoExpert.new("rumormill.damaged", "Damaged payload", expert.group.MALFORMED, expert.severity.ERROR)
rumormill.experts = { damaged }

-- MessagePack. Reading behind the end of the packet raises an error, which the dissector catches.

local SCALARS = {  -- bytes behind the first
  [0xc0] = 0, [0xc2] = 0, [0xc3] = 0, [0xca] = 4, [0xcb] = 8, [0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8,
  [0xd0] = 1, [0xd1] = 2, [0xd2] = 4, [0xd3] = 8,
}
local TEXTS = { [0xc4] = 1, [0xc5] = 2, [0xc6] = 4, [0xd9] = 1, [0xda] = 2, [0xdb] = 4 }  -- bytes of the length
local LISTS = { [0xdc] = { 2, 1 }, [0xdd] = { 4, 1 }, [0xde] = { 2, 2 }, [0xdf] = { 4, 2 } }  -- and parts of an element

-- Of an array or a map: how many values are in it, and where the first one begins. Nothing for other values.
local function opened(data, at)
  local first = data(at, 1):uint()
  if first >= 0x90 and first <= 0x9f then return first - 0x90, at + 1 end
  if first >= 0x80 and first <= 0x8f then return 2 * (first - 0x80), at + 1 end
  local list = LISTS[first]
  if list then return list[2] * data(at + 1, list[1]):uint(), at + 1 + list[1] end
end

-- Of any other value: where its content begins, and how long it is.
local function content(data, at)
  local first = data(at, 1):uint()
  if first < 0x80 or first >= 0xe0 then return at, 1 end
  if first >= 0xa0 and first <= 0xbf then return at + 1, first - 0xa0 end
  if SCALARS[first] then return at + 1, SCALARS[first] end
  if TEXTS[first] then return at + 1 + TEXTS[first], data(at + 1, TEXTS[first]):uint() end
  error("byte " .. at .. " begins no value")
end

-- Where the next value begins.
local function behind(data, at, depth)
  depth = depth or 0
  if depth > MAX_DEPTH then error("values are nested too deep") end
  local count, inside = opened(data, at)
  if not count then
    local begin, length = content(data, at)
    if begin + length > data:len() then error("a value goes on behind the end") end
    return begin + length
  end
  for _ = 1, count do inside = behind(data, inside, depth + 1) end
  return inside
end

-- A value as text. `stop` is where the next one begins.
local function text(data, at, stop)
  local first = data(at, 1):uint()
  local begin, length = at + 1, stop - at - 1
  if opened(data, at) then return data(at, stop - at):bytes():tohex(true) end
  if first < 0x80 then return tostring(first) end
  if first >= 0xe0 or (first >= 0xd0 and first <= 0xd3) then
    return tostring(first >= 0xe0 and first - 256 or data(begin, length):int64())
  end
  if first == 0xc0 then return "nil" end
  if first == 0xc2 or first == 0xc3 then return tostring(first == 0xc3) end
  if first == 0xca or first == 0xcb then return tostring(data(begin, length):float()) end
  if first >= 0xcc and first <= 0xcf then return tostring(data(begin, length):uint64()) end
  begin, length = content(data, at)
  if length == 0 then return "" end
  local part = data(begin, length)
  return (first <= 0xbf or first >= 0xd9) and part:string() or part:bytes():tohex(true)
end

-- Of a whole number: its value.
local function number(data, at)
  local begin, length = content(data, at)
  return data(begin, length):uint64(), behind(data, at)
end

local function show_message(data, at, tree)
  local count, inside = opened(data, at)
  local stop = behind(data, at)
  if not count or count == 0 then error("byte " .. at .. " begins no message") end
  local tag = number(data, inside):tonumber()
  local message = MESSAGES[tag] or { "Message " .. tag }
  local shown = tree:add(fields.message, data(at, stop - at), tag)
  inside = behind(data, inside)
  for place = 2, count do
    local next_one = behind(data, inside)
    local name = message[place] or ("field " .. place)
    shown:add(data(inside, next_one - inside), name .. ": " .. text(data, inside, next_one))
    inside = next_one
  end
  return message[1], stop
end

local function show_payload(data, tree)
  local count, at = opened(data, 0)
  if not count or count < 3 then error("no payload") end
  for _, field in ipairs({ fields.generation, fields.incarnation }) do
    local value, stop = number(data, at)
    tree:add(field, data(at, stop - at), value)
    at = stop
  end
  local said = {}
  local messages, inside = opened(data, at)
  if not messages then error("no list of messages") end
  for place = 1, messages do said[place], inside = show_message(data, inside, tree) end
  if count > 3 then tree:add(fields.load, data(inside), data(inside):bytes():tohex(true)) end
  return #said > 0 and table.concat(said, ", ") or "its load"
end

function rumormill.dissector(buffer, packet, root)
  if buffer:len() < HEADER_BYTES then return 0 end
  local kind = KINDS[buffer(0, 1):uint()]
  if not kind or buffer(26, 8):uint64() >= LAST_COUNTER then return 0 end
  packet.cols.protocol = "rumormill"
  local tree = root:add(rumormill, buffer())
  tree:add(fields.kind, buffer(0, 1))
  tree:add(fields.key, buffer(1, 1))
  tree:add(fields.label, buffer(2, 8))
  tree:add(fields.sender, buffer(10, 8))
  tree:add(fields.receiver, buffer(18, 8))
  tree:add(fields.counter, buffer(26, 8))
  local says = kind
  local inside = buffer:len() - HEADER_BYTES
  if buffer(0, 1):uint() == PLAIN and inside > 0 then
    local good, found = pcall(show_payload, buffer(HEADER_BYTES):tvb(), tree)
    says = found
    if not good then
      says = "damaged"
      tree:add_proto_expert_info(damaged, tostring(found))
    end
  elseif inside > TAG_BYTES then
    tree:add(fields.sealed, buffer(HEADER_BYTES, inside - TAG_BYTES))
    tree:add(fields.tag, buffer(buffer:len() - TAG_BYTES))
    says = kind .. ", sealed"
  end
  packet.cols.info = buffer(10, 8):bytes():tohex(true) .. " > " .. buffer(18, 8):bytes():tohex(true) .. " " .. says
  return buffer:len()
end

DissectorTable.get("udp.port"):add(7946, rumormill)
