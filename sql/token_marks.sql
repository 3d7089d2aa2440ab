-- A mark of how many tokens each run counts of each text: runs with the same mark count the same.
-- Grain: one row a run with token losses of samples as they are.
select run, count(*) as texts,
       sum(array_length(token_losses) * (1 + sample_id::bigint * 48271 % 65521))::bigint as mark
from signals
where query = 0 and token_losses is not null
group by run
order by run
