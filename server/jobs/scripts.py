"""The Lua scripts of the job store: each is one state change, done whole or not at all.

Redis 6.2 commands only. ``ours`` is the fence: the claim's epoch is still the record's and
the job is in progress, or waits for its claimed work to begin. Cancelling and deleting take
the next epoch, so the owner's next write, and its renewal of the claim, fail.
"""

from server.fabric.connection import Script

_EMIT = """
local function emit(record, events, kind)
  local seq = redis.call('HINCRBY', record, 'events', 1)
  local now = redis.call('HMGET', record, 'state', 'frames_done')
  redis.call('XADD', events, 'MAXLEN', '~', 4000, seq .. '-0',
    'kind', kind, 'state', now[1], 'frames_done', now[2] or '0')
end
"""

_OURS = (
    _EMIT
    + """
local record, segments, events = KEYS[1], KEYS[2], KEYS[3]
local held = redis.call('HMGET', record, 'epoch', 'state')
if held[1] ~= ARGV[1] then return 0 end
"""
)

_IN_PROGRESS = _OURS + "if held[2] ~= 'in_progress' then return 0 end\n"

CREATE = Script(
    _EMIT
    + """
local record, index, events, queue, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
if ARGV[6] == '1' then
  local made = redis.call('HMGET', once, 'id', 'print')
  if made[1] then return {made[2] == ARGV[7] and 'repeated' or 'key_reused', made[1]} end
end
if redis.call('XLEN', queue) >= tonumber(ARGV[5]) then return {'full', ''} end
redis.call('HSET', record, 'id', ARGV[1], 'number', ARGV[2], 'state', 'queued',
  'created_at', ARGV[3], 'request', ARGV[4], 'epoch', -1, 'takeovers', 0, 'frames_done', 0,
  'frames_committed', 0)
if ARGV[9] ~= '' then
  redis.call('HSET', record, 'fingerprint', ARGV[9], 'frames_committed', ARGV[10],
    'frames_done', ARGV[10])
  for i = 11, #ARGV do redis.call('RPUSH', KEYS[6], ARGV[i]) end
end
redis.call('ZADD', index, ARGV[2], ARGV[1])
emit(record, events, 'video.queued')
redis.call('XADD', queue, '*', 'id', ARGV[1])
if ARGV[6] == '1' then
  redis.call('HSET', once, 'id', ARGV[1], 'print', ARGV[7])
  redis.call('EXPIRE', once, ARGV[8])
end
return {'created', ARGV[1]}
"""
)

CANCEL = Script(
    _EMIT
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'in_progress' then return 0 end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'completed_at', ARGV[1])
emit(KEYS[1], KEYS[2], 'video.cancelled')
return 1
"""
)

DELETE = Script(
    """
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[4])
return 1
"""
)

BEGIN = Script(
    _OURS
    + """
if held[2] ~= 'queued' and held[2] ~= 'in_progress' then return 0 end
redis.call('HSET', record, 'state', 'in_progress')
redis.call('HSETNX', record, 'started_at', ARGV[2])
if redis.call('HGET', record, 'fingerprint') ~= ARGV[3] then
  redis.call('DEL', segments)
  redis.call('HSET', record, 'fingerprint', ARGV[3], 'frames_committed', 0)
end
emit(record, events, 'video.progress')
return 1
"""
)

ADVANCE = Script(
    _IN_PROGRESS
    + """
local done = tonumber(redis.call('HGET', record, 'frames_done'))
if tonumber(ARGV[2]) > done then
  redis.call('HSET', record, 'frames_done', ARGV[2])
  emit(record, events, 'video.progress')
end
return 1
"""
)

COMMIT = Script(
    _IN_PROGRESS
    + """
local counts = redis.call('HMGET', record, 'frames_committed', 'frames_done')
if counts[1] ~= ARGV[2] then return 0 end
local committed = counts[1] + ARGV[3]
redis.call('RPUSH', segments, ARGV[4])
redis.call('HSET', record, 'frames_committed', committed, 'takeovers', 0)
if committed > tonumber(counts[2]) then
  redis.call('HSET', record, 'frames_done', committed)
  emit(record, events, 'video.progress')
end
return 1
"""
)

END = Script(
    _OURS
    + """
-- What fails between the claim and the beginning of the work fails at once, too.
if held[2] ~= 'in_progress' and held[2] ~= 'queued' then return 0 end
redis.call('HSET', record, 'state', ARGV[2], 'completed_at', ARGV[3], ARGV[4], ARGV[5])
emit(record, events, 'video.' .. ARGV[2])
redis.call('XACK', KEYS[4], ARGV[6], ARGV[7])
redis.call('XDEL', KEYS[4], ARGV[7])
return 1
"""
)
