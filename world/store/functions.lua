#!lua name=@LIBRARY@
-- Every write to a world, each one atomic. @LIBRARY@ stands for a name made of this text's digest, so that two
-- versions of the program never share a function. Redis does not roll back what a failing function has written:
-- therefore all checks come first, and the first write is the only one that may still be refused.
--
-- Keys of one world share a hash slot: m meta, l log, x keyframe index, pin fork pins, k:<tick> keyframes, in inbox,
-- rs results of requests. Callers name m and l; the others are made from m, because which keyframes to delete is known
-- only here.

local OK, DUP = { ok = 'OK' }, { ok = 'DUP' }

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

local function sibling(meta, name)
  return string.sub(meta, 1, -2) .. name
end

-- The id that follows an inbox cursor, which is <part>-<number>.
local function after(cursor)
  local part, number = string.match(cursor, '^(%d+)-(%d+)$')
  return part .. '-' .. whole(number + 1)
end

-- The fence is compared for equality: after a lost log tail an epoch may be given out again, a nonce may not.
local function fenced(stored_epoch, stored_nonce, epoch, nonce)
  return stored_epoch ~= epoch or stored_nonce ~= nonce or nonce == ''
end

local function not_running(meta, status)
  return { 'NOT_RUNNING', status, redis.call('HGET', meta, 'why') or '' }
end

local function refused_as_fenced(meta)
  local holder = redis.call('HMGET', meta, 'ep', 'ow')
  return { 'FENCED', holder[1], holder[2] }
end

local STATES = { running = true, paused = true, quarantined = true, deleted = true }
local COUNTS = { 'ep', 'tk', 'lu', 'ct', 'cap', 'lt', 'lb', 'lk', 'capb' }

-- The first field that makes no sense of those that functions count with, or nil. After the first three, one may be
-- missing: another version of the program made the world. Fifteen digits are what a number of Lua holds exactly.
local function damaged_field(meta)
  for i, number in ipairs(redis.call('HMGET', meta, unpack(COUNTS))) do
    if number and not (string.match(number, '^%d+$') and #number <= 15) or not number and i <= 3 then
      return COUNTS[i]
    end
  end
end

-- The digest of one tick in the log, or nil where the log has no such tick.
local function digest_at(log, tick)
  local entry = redis.call('XRANGE', log, whole(tick), whole(tick), 'COUNT', 1)[1]
  return entry and entry[2][2]
end

-- Whether a world can be at a tick with a digest. The log has both, unless the world was made at this tick, or rewound
-- to it in its archive, and so has a keyframe of it. Then no later tick has this digest: the world would be at that one.
local function can_be_at(meta, log, tick, digest)
  local logged = digest_at(log, tick)
  if logged then
    return logged == digest
  end
  for _, entry in ipairs(redis.call('XRANGE', log, whole(tick + 1) .. '-0', '+')) do
    if entry[2][2] == digest then
      return false
    end
  end
  return redis.call('EXISTS', sibling(meta, 'k:' .. whole(tick))) == 1
end

local function delete_keyframes(meta, from)
  local index = sibling(meta, 'x')
  for _, tick in ipairs(redis.call('ZRANGEBYSCORE', index, from, '+inf')) do
    redis.call('UNLINK', sibling(meta, 'k:' .. tick))
    redis.call('ZREM', index, tick)
  end
end

-- Delete what lies beyond the last committed tick: only a function that failed half-way leaves it behind.
-- The log is written anew beside the old one: a stream never again takes an id below one that was deleted.
local function cut_log(meta, log, tick)
  delete_keyframes(meta, '(' .. whole(tick))
  redis.call('ZREMRANGEBYSCORE', sibling(meta, 'rs'), '(' .. whole(2 * tick + 1), '+inf')
  if #redis.call('XRANGE', log, whole(tick + 1) .. '-0', '+', 'COUNT', 1) == 0 then
    return
  end
  local repaired = sibling(meta, 'repaired')
  redis.call('UNLINK', repaired)
  local kept = redis.call('XRANGE', log, '-', '(' .. whole(tick + 1) .. '-0')
  for _, entry in ipairs(kept) do
    redis.call('XADD', repaired, entry[1], unpack(entry[2]))
  end
  if #kept == 0 then
    redis.call('UNLINK', log)
  else
    redis.call('RENAME', repaired, log)
  end
end

-- Delete what lies before the lowest of: the tick asked for, the last keyframes to be kept, and what is archived; and
-- leave the keyframe before that, so that the log begins with one.
local function trim_log(meta, log, keep_from, kept)
  local index = sibling(meta, 'x')
  local last = redis.call('ZREVRANGE', index, 0, kept - 1)
  if #last < kept then
    return
  end
  local bound = math.min(keep_from, tonumber(last[kept]), tonumber(redis.call('HGET', meta, 'ct')))
  bound = tonumber(redis.call('ZREVRANGEBYSCORE', index, whole(bound), '-inf', 'LIMIT', 0, 1)[1] or bound)
  for _, tick in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. whole(bound))) do
    redis.call('UNLINK', sibling(meta, 'k:' .. tick))
    redis.call('ZREM', index, tick)
  end
  redis.call('XTRIM', log, 'MINID', whole(bound) .. '-0')
end

-- How many bytes a log has in its ticks from one up to another.
local function log_bytes(log, first, last)
  local size = 0
  for _, entry in ipairs(redis.call('XRANGE', log, whole(first), whole(last))) do
    size = size + #entry[2][4]
  end
  return size
end

-- Count what the log has got since it was counted last, with each keyframe: to count with each tick would cost a tenth
-- of a commit. At its cap of bytes the world is paused, from the next commit on.
local function count_log(meta, log, tick, fields)
  local stored = redis.call('HMGET', meta, 'capb', 'lb', 'lk')
  local cap = tonumber(stored[1] or 0)
  if cap == 0 then
    return
  end
  local size = stored[2] + log_bytes(log, stored[3] + 1, tick)
  local counted = { 'lb', whole(size), 'lk', whole(tick) }
  if size >= cap then
    counted = { 'lb', whole(size), 'lk', whole(tick), 'st', 'paused', 'why', 'log' }
  end
  for _, part in ipairs(counted) do
    fields[#fields + 1] = part
  end
end

-- create  KEYS m l  ARGS creation digest, tick, keyframe, then meta fields and values
local function create(keys, args)
  local meta, log, index = keys[1], keys[2], sibling(keys[1], 'x')
  local created = redis.call('HGET', meta, 'cd')
  if created then
    return { created == args[1] and 'DUP' or 'EXISTS' }
  end
  redis.call('SET', sibling(meta, 'k:' .. args[2]), args[3])
  redis.call('UNLINK', log, index, sibling(meta, 'pin'), sibling(meta, 'in'), sibling(meta, 'rs'))
  redis.call('ZADD', index, args[2], args[2])
  -- What every commit looks up comes first: a small hash is a list, searched from its head.
  local fields = { 'ep', '0', 'no', '', 'tk', args[2], 'dg', args[1], 'lu', '0', 'wv', '0', 'st', 'running', 'ow', '',
    'lt', '0', 'ct', args[2], 'cap', '0', 'capb', '0', 'lb', '0', 'lk', args[2], 'cd', args[1], 'kt', args[2], 'bt', args[2], 'ic', '0-0', 'at', whole(now_ms()) }
  for i = 4, #args do
    fields[#fields + 1] = args[i]
  end
  redis.call('HSET', meta, unpack(fields))
  return { 'OK' }
end

-- acquire  KEYS m l  ARGS owner, nonce, lease in ms
-- Nothing is written, and above all nothing cut off, on the word of a record that is damaged.
local function acquire(keys, args)
  local meta, log = keys[1], keys[2]
  local owner, nonce, now = args[1], args[2], now_ms()
  local stored = redis.call('HMGET', meta, 'ep', 'no', 'ow', 'lu', 'st', 'tk', 'dg', 'lt')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if not STATES[stored[5]] then
    return { 'DAMAGED', 'st' }
  end
  if stored[5] ~= 'running' then
    return not_running(meta, stored[5])
  end
  local damaged = damaged_field(meta) or not stored[3] and 'ow'
  if damaged then
    return { 'DAMAGED', damaged }
  end
  local epoch, lease = tonumber(stored[1]), whole(now + tonumber(args[3]))
  if stored[2] == nonce then
    redis.call('HSET', meta, 'lu', lease, 'lt', args[3], 'ow', owner)
    return { 'OK', whole(epoch), stored[6], stored[7] }
  end
  local left = tonumber(stored[4]) - now
  -- A lease that has more left than was ever given was given before the clock went back: it says nothing.
  if stored[3] ~= owner and left > 0 and left <= tonumber(stored[8] or left) then
    return { 'HELD', stored[3], whole(left) }
  end
  if not can_be_at(meta, log, tonumber(stored[6]), stored[7]) then
    return { 'UNCHAINED', stored[6] }
  end
  cut_log(meta, log, tonumber(stored[6]))
  redis.call('HSET', meta, 'ep', whole(epoch + 1), 'no', nonce, 'ow', owner, 'lu', lease, 'lt', args[3], 'at', whole(now))
  return { 'OK', whole(epoch + 1), stored[6], stored[7] }
end

-- renew  KEYS m l  ARGS epoch, nonce, lease in ms
local function renew(keys, args)
  local stored = redis.call('HMGET', keys[1], 'ep', 'no', 'ow')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if fenced(stored[1], stored[2], args[1], args[2]) then
    return { 'FENCED', stored[1], stored[3] }
  end
  redis.call('HSET', keys[1], 'lu', whole(now_ms() + tonumber(args[3])))
  return { 'OK' }
end

-- release  KEYS m l  ARGS epoch, nonce
local function release(keys, args)
  local stored = redis.call('HMGET', keys[1], 'ep', 'no', 'ow')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if fenced(stored[1], stored[2], args[1], args[2]) then
    return { 'FENCED', stored[1], stored[3] }
  end
  redis.call('HSET', keys[1], 'no', '', 'ow', '', 'lu', '0', 'at', whole(now_ms()))
  return { 'OK' }
end

-- commit  KEYS m l of each world
--         ARGS of each world, after their number: epoch, nonce, previous tick, tick, a digest and a frame for each
--              tick between; then, all or none:
--              keyframe or empty, inbox cursor or empty, lease in ms or empty (it is fresh enough), weights version,
--              "<ticks kept> <keyframes kept> <results kept>",
--              then a score and a request id for each request that the ticks answered
-- A call in Lua costs half a microsecond, an argument a tenth: most ticks make three calls, and have no more to say.
local function commit_world(meta, log, args, at)
  local epoch, nonce = args[at + 1], args[at + 2]
  local stored = redis.call('HMGET', meta, 'ep', 'no', 'tk', 'st', 'ct', 'cap')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if fenced(stored[1], stored[2], epoch, nonce) then
    return refused_as_fenced(meta)
  end
  if stored[4] ~= 'running' then
    return not_running(meta, stored[4])
  end
  local previous, tick, committed = tonumber(args[at + 3]), tonumber(args[at + 4]), tonumber(stored[3])
  if committed < previous or committed > tick then
    return { 'GAP', stored[3] }
  end
  local num, known = tick - previous, committed - previous
  local ticks = at + 4
  local tail = ticks + 2 * num
  -- What a lost answer had already committed is recognised by its digest, be it all of this call or its beginning.
  if known > 0 and args[ticks - 1 + 2 * known] ~= redis.call('HGET', meta, 'dg') then
    return { 'CONFLICT', stored[3] }
  end
  if known == num then
    -- A write, always: what waits for a replica waits for the last write of its connection.
    redis.call('HSET', meta, 'lu', now_ms() + redis.call('HGET', meta, 'lt'))
    return DUP
  end
  -- Nothing that is not archived is ever trimmed: a world pauses rather than fill the server.
  local cap = tonumber(stored[6] or 0)
  if cap > 0 and tick - stored[5] > cap then
    redis.call('HSET', meta, 'st', 'paused', 'why', 'log')
    return not_running(meta, 'paused')
  end
  for i = known + 1, num do
    local id = (i == num and args[ticks] or previous + i) .. '-' .. epoch
    local added = redis.pcall('XADD', log, id, 'd', args[ticks - 1 + 2 * i], 'e', args[ticks + 2 * i])
    if type(added) == 'table' and added.err then
      if i > known + 1 then
        return added
      end
      cut_log(meta, log, committed)
      redis.call('XADD', log, id, 'd', args[ticks - 1 + 2 * i], 'e', args[ticks + 2 * i])
    end
  end
  local last = at + args[at]
  if last == tail then
    redis.call('HSET', meta, 'tk', args[ticks], 'dg', args[tail - 1])
    return OK
  end
  local keyframe, cursor, lease, version = args[tail + 1], args[tail + 2], args[tail + 3], args[tail + 4]
  local ticks_kept, keyframes_kept, results_kept = string.match(args[tail + 5], '^(%d+) (%d+) (%d+)$')
  -- All that the tick moves moves in one write, which nothing can split: an input is applied with its effects, or not.
  local fields = { 'tk', args[ticks], 'dg', args[tail - 1], 'wv', version }
  if lease ~= '' then
    fields[#fields + 1] = 'lu'
    fields[#fields + 1] = now_ms() + lease
  end
  if cursor ~= '' then
    fields[#fields + 1] = 'ic'
    fields[#fields + 1] = cursor
    for i = tail + 6, last, 2 do
      redis.call('ZADD', sibling(meta, 'rs'), args[i], args[i + 1])
    end
  end
  if keyframe ~= '' then
    redis.call('SET', sibling(meta, 'k:' .. args[ticks]), keyframe)
    redis.call('ZADD', sibling(meta, 'x'), args[ticks], args[ticks])
    count_log(meta, log, tick, fields)
    fields[#fields + 1] = 'kt'
    fields[#fields + 1] = args[ticks]
  end
  redis.call('HSET', meta, unpack(fields))
  if cursor ~= '' then
    redis.call('XTRIM', sibling(meta, 'in'), 'MINID', after(cursor))
    redis.call('ZREMRANGEBYRANK', sibling(meta, 'rs'), 0, -1 - results_kept)
  end
  if keyframe ~= '' then
    trim_log(meta, log, math.max(0, tick - ticks_kept), tonumber(keyframes_kept))
  end
  return OK
end

-- Commit world after world from the first that has no answer yet; only what is not OK is written down.
local function commit_worlds(keys, args, done)
  for i = done.worlds + 1, #keys / 2 do
    local answer = commit_world(keys[2 * i - 1], keys[2 * i], args, done.at)
    if answer ~= OK then
      done.answers[i] = answer
    end
    done.worlds, done.at = i, done.at + args[done.at] + 1
  end
end

-- Answers OK if it is that for every world; else with an answer for each. What one world meets, no other feels.
local function commit(keys, args)
  local done = { worlds = 0, at = 1, answers = {} }
  local num = #keys / 2
  while done.worlds < num do
    local ran, failure = pcall(commit_worlds, keys, args, done)
    if not ran then
      done.worlds, done.at = done.worlds + 1, done.at + args[done.at] + 1
      local err = type(failure) == 'table' and failure.err or 'ERR ' .. tostring(failure)
      done.answers[done.worlds] = { err = err }
    end
  end
  if next(done.answers) == nil then
    return OK
  end
  for i = 1, num do
    done.answers[i] = done.answers[i] or OK
  end
  return done.answers
end

-- set_status  KEYS m l  ARGS status
local function set_status(keys, args)
  local stored = redis.call('HMGET', keys[1], 'ep', 'gone')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if stored[2] then
    return { args[1] == 'deleted' and 'OK' or 'NOT_RUNNING', 'deleted' }
  end
  redis.call('HSET', keys[1], 'st', args[1], 'why', '', 'at', whole(now_ms()))
  return { 'OK' }
end

redis.register_function('@LIBRARY@_create', create)
redis.register_function('@LIBRARY@_commit', commit)
-- What frees memory, or keeps and hands over what there is, must work on a full server.
local always = { 'allow-oom' }
redis.register_function{ function_name = '@LIBRARY@_acquire', callback = acquire, flags = always }
redis.register_function{ function_name = '@LIBRARY@_renew', callback = renew, flags = always }
redis.register_function{ function_name = '@LIBRARY@_release', callback = release, flags = always }
redis.register_function{ function_name = '@LIBRARY@_set_status', callback = set_status, flags = always }
