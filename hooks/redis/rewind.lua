-- Before a restore: bring what is declared back to a checkpoint. All is looked at before anything is written.
local here = record(q.checkpoint)
local number = redis.call('ZSCORE', records, q.checkpoint)
if not number or redis.call('EXISTS', here) == 0 then return redis.error_reply('UNKNOWN') end
local declared = cjson.decode(redis.call('HGET', here, 'declared'))
local positions = cjson.decode(redis.call('HGET', here, 'positions'))
local values, expires = here .. ':values', here .. ':expires'
for _, part in ipairs({'values', 'expires'}) do -- evicted, or removed by somebody
  if tonumber(redis.call('HGET', here, part)) ~= redis.call('HLEN', here .. ':' .. part) then
    return redis.error_reply('UNKNOWN')
  end
end
local counts = {}
local function count(name, what, by)
  counts[name] = counts[name] or {}
  counts[name][what] = (counts[name][what] or 0) + by
end
for _, name in ipairs(declared.streams) do stream(name) end
for _, name in ipairs(declared.lists) do list(name) end
fence()
local function write(...)
  if not q.dry then return redis.call(...) end
end

-- keys by pattern
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for name in pairs(matching(declared)) do
  if redis.call('HEXISTS', values, name) == 0 then
    write('UNLINK', name)
    count('keys', 'removed', 1)
  end
end
for _, name in ipairs(redis.call('HKEYS', values)) do
  local value = redis.call('HGET', values, name)
  local at = tonumber(redis.call('HGET', expires, name) or '-1')
  if at > 0 and at <= now then -- it would have expired by now
    if redis.call('EXISTS', name) == 1 then
      write('UNLINK', name)
      count('keys', 'removed', 1)
    end
  elseif redis.call('DUMP', name) ~= value or redis.call('PEXPIRETIME', name) ~= at then
    write('RESTORE', name, string.format('%.0f', math.max(at, 0)), value, 'REPLACE', 'ABSTTL')
    count('keys', 'restored', 1)
  end
end

-- streams by their last id
for _, name in ipairs(declared.streams) do
  local was, is = positions.streams[name], stream(name)
  local from = was.there and '(' .. was.last or '-'
  local later = 0
  while is.there do
    local entries = redis.call('XRANGE', name, from, '+', 'COUNT', 1000)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      if q.mode == 'move' then
        write('XADD', name .. '.rewound', '*', 'ckptrun-id', entry[1], 'ckptrun-checkpoint', q.checkpoint,
              unpack(entry[2]))
      end
      if was.there then write('XDEL', name, entry[1]) end
    end
    later = later + #entries
    from = '(' .. entries[#entries][1]
  end
  if later > 0 then count(name, 'undone', later) end
  if was.there and is.there then
    -- entries that somebody has removed or trimmed meanwhile do not come back
    if is.length - later < was.length then count(name, 'lost', was.length - (is.length - later)) end
    -- (the highest deleted id can be set lower again, but not to none: it matters to nobody but the lag of groups)
    write('XSETID', name, was.last, 'ENTRIESADDED', was.added, 'MAXDELETEDID', was.deleted)
  elseif was.there then
    count(name, 'lost', was.length)
  elseif is.there then
    write('UNLINK', name)
  end
end

-- lists by their length
for _, name in ipairs(declared.lists) do
  local was, is = positions.lists[name], list(name)
  if is.length > was.length then
    count(name, 'undone', is.length - was.length)
    for start = was.length, is.length - 1, 1000 do
      if q.mode ~= 'move' then break end
      local last = math.min(start + 999, is.length - 1)
      write('RPUSH', name .. '.rewound', unpack(redis.call('LRANGE', name, start, last)))
    end
    if was.length == 0 then write('UNLINK', name) else write('LTRIM', name, 0, was.length - 1) end
  elseif is.length < was.length then
    count(name, 'lost', was.length - is.length)
  end
end

-- checkpoints that this one is older than have no future
for _, later in ipairs(redis.call('ZRANGEBYSCORE', records, '(' .. number, '+inf')) do
  write('UNLINK', record(later), record(later) .. ':values', record(later) .. ':expires')
  write('ZREM', records, later)
end
return cjson.encode(counts)
