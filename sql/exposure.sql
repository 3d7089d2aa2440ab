-- Exposure of canaries (Carlini et al. 2019): the rank of a canary's loss among those that the target did not train on.
-- Parameters: $target  [run]  the run under attack
--             $group   [text; default 'canary']  the group that canaries and candidates are in
-- Grain: one row a sample of this group in the audit pool that the target has a loss of, infinite ones standing last; candidates of
-- the population count, and have no row. Equal losses have equal scores, whether the target trained on the sample or not.
with canaries as (
  select signals.sample_id, signals.member, samples.pool, coalesce(list_sum(token_losses), signals.loss::double) as loss
  from signals
  join samples on samples.sample_id = signals.sample_id and samples."group" = $group
  where signals.run = $target and signals.query = 0 and not isnan(signals.loss)
),
ranked as (
  select *,
         sum((not member)::integer) over (order by loss range between unbounded preceding and current row)::bigint as at_most,
         sum((not member)::integer) over (partition by loss)::bigint as ties,
         1 + sum((not member)::integer) over ()::bigint as candidates
  from canaries
)
select sample_id, member,
       (ln(candidates) - ln(1 + at_most - ties / 2)) / ln(2) as score,
       1 + at_most - ties / 2 as rank,
       candidates,
       ties,
       (1 + at_most)::double / candidates as p_value,
       loss
from ranked
where pool = 'audit'
order by sample_id
