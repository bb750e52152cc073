-- What happens to a world's past: archived, pinned, rewound, deleted. Follows functions.lua in the same library.
--
-- Further keys of a world: s segments, ZSET <first>-<last>-<name> by first tick; pin ZSET of forks by the tick they
-- build on; pint ZSET of the same forks by the time they were pinned.

-- archived  KEYS m l  ARGS archived up to, first and last tick of a segment, its last digest, its name, hot ticks,
--                          keyframes kept, bytes that the segment's ticks have in the log
-- The fence is what was read: whoever archived another past than the log has now cannot move on.
local function archived(keys, args)
  local meta, log, segments = keys[1], keys[2], sibling(keys[1], 's')
  local stored = redis.call('HMGET', meta, 'ct', 'tk', 'st', 'why', 'cap', 'capb', 'lb', 'lk')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if stored[3] == 'deleted' then
    return not_running(meta, stored[3])
  end
  local member = args[2] .. '-' .. args[3] .. '-' .. args[5]
  if stored[1] == args[3] and redis.call('ZSCORE', segments, member) then
    return { 'DUP' }
  end
  local tick, last = tonumber(stored[2]), tonumber(args[3])
  if stored[1] ~= args[1] or last > tick or digest_at(log, last) ~= args[4] then
    return { 'CHANGED', args[3] }
  end
  -- What lies beyond was left there by a rewind, or an archiver, that failed half-way.
  redis.call('ZREMRANGEBYSCORE', segments, '(' .. stored[1], '+inf')
  redis.call('ZADD', segments, args[2], member)
  local cap, most = tonumber(stored[5] or 0), tonumber(stored[6] or 0)
  local counted_to = tonumber(stored[8] or 0)
  local size = last < counted_to and math.max(0, stored[7] - args[8]) or 0
  local fields = { 'ct', args[3], 'lb', whole(size), 'lk', whole(math.max(last, counted_to)) }
  local short = (cap == 0 or 2 * (tick - last) <= cap) and (most == 0 or 2 * size <= most)
  if stored[3] == 'paused' and stored[4] == 'log' and short then
    for _, part in ipairs({ 'st', 'running', 'why', '' }) do
      fields[#fields + 1] = part
    end
  end
  redis.call('HSET', meta, unpack(fields))
  trim_log(meta, log, math.max(0, tick - tonumber(args[6])), tonumber(args[7]))
  return { 'OK' }
end

-- A world that is being made of another's past is quarantined, and nobody has owned it yet.
local function unfinished(meta)
  local stored = redis.call('HMGET', meta, 'ep', 'st')
  return stored[1] == '0' and stored[2] == 'quarantined'
end

-- add_segments  KEYS m l  ARGS first tick and member of each: the past of a world that is being made
local function add_segments(keys, args)
  if #args == 0 or not unfinished(keys[1]) then
    return { 'DUP' }
  end
  -- One by one: Lua hands over a few thousand arguments at most.
  for i = 1, #args, 2 do
    redis.call('ZADD', sibling(keys[1], 's'), args[i], args[i + 1])
  end
  return { 'OK' }
end

-- finish  KEYS m l: the world that was being made is whole
local function finish(keys, args)
  if not unfinished(keys[1]) then
    return { 'DUP' }
  end
  redis.call('HSET', keys[1], 'st', 'paused', 'why', '')
  return { 'OK' }
end

-- forget_segments  KEYS m l  ARGS tick: those that end before it. Refused where a fork builds on what they hold.
local function forget_segments(keys, args)
  local meta, segments = keys[1], sibling(keys[1], 's')
  if redis.call('EXISTS', meta) == 0 then
    return { 'NO_WORLD' }
  end
  local pinned = redis.call('ZRANGE', sibling(meta, 'pin'), 0, 0)[1]
  if pinned then
    return { 'PINNED', pinned }
  end
  for _, member in ipairs(redis.call('ZRANGE', segments, 0, -1)) do
    if tonumber(string.match(member, '^%d+%-(%d+)')) < tonumber(args[1]) then
      redis.call('ZREM', segments, member)
    end
  end
  return { 'OK' }
end

-- append  KEYS m l  ARGS previous tick, tick, a digest and a frame for each tick between: to a world that is being made
local function append(keys, args)
  local meta, log = keys[1], keys[2]
  local stored = redis.call('HMGET', meta, 'ep', 'tk', 'dg')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  local previous, tick, committed = tonumber(args[1]), tonumber(args[2]), tonumber(stored[2])
  if committed >= tick then
    return { 'DUP' }
  end
  if not unfinished(meta) or committed < previous then
    return { 'CHANGED', stored[2] }
  end
  local known = committed - previous
  if known > 0 and args[1 + 2 * known] ~= stored[3] then
    return { 'CHANGED', stored[2] }
  end
  cut_log(meta, log, committed)
  for i = known + 1, tick - previous do
    redis.call('XADD', log, (previous + i) .. '-0', 'd', args[1 + 2 * i], 'e', args[2 + 2 * i])
  end
  redis.call('HSET', meta, 'tk', args[2], 'dg', args[1 + 2 * (tick - previous)])
  return { 'OK' }
end

-- pin  KEYS m l  ARGS tick, id of the fork
local function pin(keys, args)
  local meta = keys[1]
  local stored = redis.call('HMGET', meta, 'tk', 'st')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  if stored[2] == 'deleted' then
    return not_running(meta, stored[2])
  end
  if tonumber(args[1]) > tonumber(stored[1]) then
    return { 'CHANGED', stored[1] }
  end
  redis.call('ZADD', sibling(meta, 'pin'), args[1], args[2])
  redis.call('ZADD', sibling(meta, 'pint'), 'NX', whole(now_ms()), args[2])
  return { 'OK' }
end

-- unpin  KEYS m l  ARGS id of the fork
local function unpin(keys, args)
  redis.call('ZREM', sibling(keys[1], 'pin'), args[1])
  redis.call('ZREM', sibling(keys[1], 'pint'), args[1])
  return { 'OK' }
end

-- set_parent  KEYS m l  ARGS parent: the same past is kept by another world now
local function set_parent(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then
    return { 'NO_WORLD' }
  end
  redis.call('HSET', keys[1], 'parent', args[1])
  return { 'OK' }
end

-- rewind  KEYS m l  ARGS epoch, tick and digest that it has now; tick, digest and keyframe that it shall have; weights
--                        version, status, and what a repair drops: 1 for the log's copies of what is archived, else
--                        empty, and ticks of keyframes
-- The fence is what was read, all of it copied to a fork by then: a tick committed meanwhile would be lost otherwise.
-- The world is at its new tick before anything is deleted: until then it is whole where it was, and what lies beyond its
-- tick nobody reads.
local function rewind(keys, args)
  local meta, log = keys[1], keys[2]
  local function cut_off()
    cut_log(meta, log, tonumber(args[4]))
    redis.call('ZREMRANGEBYSCORE', sibling(meta, 's'), '(' .. args[4], '+inf')
    if args[9] == '1' then
      redis.call('XTRIM', log, 'MINID', whole(redis.call('HGET', meta, 'ct') + 1) .. '-0')
    end
    for i = 10, #args do
      redis.call('UNLINK', sibling(meta, 'k:' .. args[i]))
      redis.call('ZREM', sibling(meta, 'x'), args[i])
    end
  end
  local stored = redis.call('HMGET', meta, 'ep', 'tk', 'dg', 'st', 'ow', 'lu', 'ct', 'bt', 'no')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  local to = tonumber(args[4])
  if stored[2] == args[4] and stored[3] == args[5] and stored[4] == args[8] and stored[9] == '' then
    cut_off()
    return { 'DUP' }
  end
  if stored[4] == 'deleted' then
    return not_running(meta, stored[4])
  end
  local now = now_ms()
  if stored[4] == 'running' and tonumber(stored[6]) > now then
    return { 'HELD', stored[5], whole(tonumber(stored[6]) - now) }
  end
  if stored[1] ~= args[1] or stored[2] ~= args[2] or stored[3] ~= args[3] or to > tonumber(stored[2]) then
    return { 'CHANGED', stored[2] }
  end
  local logged = digest_at(log, to)
  if logged and logged ~= args[5] then
    return { 'CHANGED', args[4] }
  end
  local pinned = redis.call('ZRANGEBYSCORE', sibling(meta, 'pin'), '(' .. args[4], '+inf', 'LIMIT', 0, 1)[1]
  if pinned then
    return { 'PINNED', pinned }
  end
  redis.call('SET', sibling(meta, 'k:' .. args[4]), args[6])
  redis.call('ZADD', sibling(meta, 'x'), args[4], args[4])
  local archived_to = math.min(to, tonumber(stored[7]))
  local fields = { 'ep', whole(tonumber(stored[1]) + 1), 'no', '', 'ow', '', 'lu', '0', 'tk', args[4], 'dg', args[5],
    'kt', args[4], 'ct', whole(archived_to), 'wv', args[7], 'st', args[8], 'why', '', 'at', whole(now),
    'lb', whole(log_bytes(log, archived_to + 1, to)), 'lk', args[4] }
  if to < tonumber(stored[8]) then
    for _, part in ipairs({ 'bt', args[4], 'cd', args[5] }) do
      fields[#fields + 1] = part
    end
  end
  redis.call('HSET', meta, unpack(fields))
  cut_off()
  return { 'OK' }
end

-- delete  KEYS m l: all but the meta, which says for ever that this id was a world and is none any more. Answers with
--                   its parent. Its record need not make sense.
local function delete(keys, args)
  local meta, log = keys[1], keys[2]
  local stored = redis.call('HMGET', meta, 'ep', 'gone', 'parent')
  if not stored[1] then
    return { 'NO_WORLD' }
  end
  local parent = stored[3] or ''
  if stored[2] then
    return { 'DUP', parent }
  end
  local pinned = redis.call('ZRANGE', sibling(meta, 'pin'), 0, 0)[1]
  if pinned then
    return { 'PINNED', pinned }
  end
  redis.call('HSET', meta, 'st', 'deleted', 'why', '', 'no', '', 'ow', '', 'lu', '0',
    'ep', whole((tonumber(stored[1]) or 0) + 1), 'at', whole(now_ms()))
  delete_keyframes(meta, '-inf')
  redis.call('UNLINK', log, sibling(meta, 's'), sibling(meta, 'in'), sibling(meta, 'rs'), sibling(meta, 'pint'))
  redis.call('HSET', meta, 'gone', '1')
  return { 'OK', parent }
end

redis.register_function('@LIBRARY@_add_segments', add_segments)
redis.register_function('@LIBRARY@_append', append)
redis.register_function('@LIBRARY@_finish', finish)
redis.register_function('@LIBRARY@_pin', pin)
redis.register_function{ function_name = '@LIBRARY@_archived', callback = archived, flags = always }
redis.register_function{ function_name = '@LIBRARY@_forget_segments', callback = forget_segments, flags = always }
redis.register_function{ function_name = '@LIBRARY@_unpin', callback = unpin, flags = always }
redis.register_function{ function_name = '@LIBRARY@_set_parent', callback = set_parent, flags = always }
redis.register_function{ function_name = '@LIBRARY@_rewind', callback = rewind, flags = always }
redis.register_function{ function_name = '@LIBRARY@_delete', callback = delete, flags = always }
