-- Spearman's rank correlation of two stored scores; ties share their mean rank.
-- Parameters: $first, $second  [text]  the analyses whose scores they are
--             $first_variant, $second_variant  [text; default '']  their variants
--             $target  [run, 'all']  the run they are about, or 'all' for scores that are about no run
--             $among   ['all', 'members', 'non-members'; default 'all']  which samples, by membership in the target
-- Grain: one row: n samples with both scores, and rho (NULL where a score does not vary).
with sides as (
  select sample_id, member, score, analysis = $first and variant = $first_variant as is_first,
         analysis = $second and variant = $second_variant as is_second
  from scores
  where target = $target and score is not null
),
pairs as (
  select one.score as x, other.score as y
  from sides as one
  join sides as other on other.sample_id = one.sample_id
  where one.is_first and other.is_second
    and ($among = 'all' or coalesce(one.member, other.member) = ($among = 'members'))
),
ranks as (
  select rank() over (order by x) + (count(*) over (partition by x) - 1) / 2.0 as rank_x,
         rank() over (order by y) + (count(*) over (partition by y) - 1) / 2.0 as rank_y
  from pairs
),
correlation as (
  select count(*) as n, corr(rank_x, rank_y) as rho
  from ranks
)
select n, case when isfinite(rho) then greatest(-1, least(1, rho)) end as rho
from correlation
