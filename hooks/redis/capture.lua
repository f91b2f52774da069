-- Before a checkpoint: note positions and values under the checkpoint's name. All is looked at before anything is written.
local all = survey(q.declared)
fence()
local here = record(q.checkpoint)
redis.call('UNLINK', here, here .. ':values', here .. ':expires')
redis.call('HSET', here, 'declared', cjson.encode(q.declared), 'positions',
           cjson.encode({streams = all.streams, lists = all.lists}))
for name, value in pairs(all.values) do redis.call('HSET', here .. ':values', name, value) end
for name, at in pairs(all.expires) do redis.call('HSET', here .. ':expires', name, string.format('%.0f', at)) end
redis.call('HSET', here, 'values', redis.call('HLEN', here .. ':values'), 'expires', redis.call('HLEN', here .. ':expires'))
redis.call('ZADD', records, redis.call('HINCRBY', q.prefix .. ':head', 'number', 1), q.checkpoint)
return {all.fingerprint, all.keys, all.bytes}
