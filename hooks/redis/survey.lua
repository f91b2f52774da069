-- What is declared, as it is now. Part of every script of this hook; reads only.
local q = cjson.decode(ARGV[1])
local records = q.prefix .. ':checkpoints'

local function record(checkpoint)
  return q.prefix .. ':c:' .. checkpoint
end

local function kind(name)
  return redis.call('TYPE', name).ok
end

-- Names of the keys that the patterns mean: not ours, and not those that are known by a position.
local function matching(declared)
  local apart, found = {}, {}
  for _, list in ipairs({declared.streams, declared.lists}) do
    for _, name in ipairs(list) do
      apart[name], apart[name .. '.rewound'] = true, true
    end
  end
  for _, pattern in ipairs(declared.patterns) do
    local cursor = '0'
    repeat
      local answer = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
      cursor = answer[1]
      for _, name in ipairs(answer[2]) do
        if not apart[name] and string.sub(name, 1, 8) ~= 'ckptrun:' then found[name] = true end
      end
    until cursor == '0'
  end
  return found
end

local function stream(name)
  local now = kind(name)
  if now == 'none' then return {there = false, length = 0} end
  if now ~= 'stream' then error({err = 'KIND ' .. name .. ' is a ' .. now .. ', not a stream'}) end
  local info, map = redis.call('XINFO', 'STREAM', name), {}
  for i = 1, #info, 2 do map[info[i]] = info[i + 1] end
  return {there = true, length = map['length'], last = map['last-generated-id'],
          deleted = map['max-deleted-entry-id'], added = string.format('%.0f', map['entries-added'])}
end

local function list(name)
  local now = kind(name)
  if now == 'none' then return {there = false, length = 0} end
  if now ~= 'list' then error({err = 'KIND ' .. name .. ' is a ' .. now .. ', not a list'}) end
  return {there = true, length = redis.call('LLEN', name)}
end

-- Positions, values and one fingerprint of all. Keys that expire by themselves are not part of the last.
local function survey(declared)
  local all = {streams = {}, lists = {}, values = {}, expires = {}, keys = 0, bytes = 0}
  local marks = {}
  for _, name in ipairs(declared.streams) do
    local one = stream(name)
    all.streams[name] = one
    table.insert(marks, name .. ' ' .. one.length .. ' ' .. (one.last or '') .. ' ' .. (one.added or ''))
  end
  for _, name in ipairs(declared.lists) do
    all.lists[name] = list(name)
    table.insert(marks, name .. ' ' .. all.lists[name].length)
  end
  for name in pairs(matching(declared)) do
    local value = redis.call('DUMP', name)
    if value then
      all.keys, all.bytes = all.keys + 1, all.bytes + #name + #value
      if all.bytes > q.limit then error({err = 'LIMIT'}) end
      local at = redis.call('PEXPIRETIME', name)
      all.values[name] = value
      if at > 0 then all.expires[name] = at else table.insert(marks, name .. ' ' .. redis.sha1hex(value)) end
    end
  end
  table.sort(marks)
  all.fingerprint = redis.sha1hex(table.concat(marks, '\n'))
  return all
end

local function fence()
  local epoch = tonumber(redis.call('HGET', q.prefix .. ':head', 'epoch') or '0')
  if q.epoch > 0 and q.epoch < epoch then error({err = 'FENCED ' .. epoch}) end
  if q.epoch > epoch and not q.dry then redis.call('HSET', q.prefix .. ':head', 'epoch', q.epoch) end
end
